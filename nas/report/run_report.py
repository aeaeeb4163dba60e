"""The report of a run: one HTML page that needs nothing but itself."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jinja2 import BaseLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

import search_spaces
from nas.report import cell_picture, figures, plots
from nas.runs.files import atomic_path, read_json, read_json_lines, write_text
from search_spaces import Genotype

# Recipes of the publications for their data, which a cell found there is to be retrained with.
_FINAL_PRESETS = {"nasbench201": "nasbench201-200", "darts": "darts-600"}


class Tile(NamedTuple):
    """A headline figure."""

    name: str
    value: str
    unit: str = ""
    note: str = ""


class Picture(NamedTuple):
    """A figure with its heading and an explanation; `half` puts two beside each other."""

    heading: str
    svg: Markup
    caption: str
    half: bool = False


def render_report(folder: Path) -> None:
    """Write `report.html` into the folder of a finished run, from the other files in it."""
    config, result, machine, genotype_json = (
        read_json(folder / f"{name}.json") for name in ("config", "result", "environment", "genotype")
    )
    metrics = read_json_lines(folder / "metrics.jsonl")
    space = search_spaces.get(genotype_json["space"])
    genotype = space.validate(Genotype.from_json(genotype_json))
    search = result["kind"] == "search"
    page = (
        environment(PackageLoader("nas.report"))
        .get_template("report.html.j2")
        .render(
            kind="Architecture search" if search else "Final training",
            subject=f"{result['estimator']} in {space.name}" if search else f"{space.name} cell",
            dataset=result["dataset"],
            seed=result["seed"],
            epochs=len(metrics),
            warnings=result["warnings"],
            tiles=[
                *(_search_tiles(result, metrics, genotype) if search else _final_tiles(result)),
                *_skipped_tile(result),
            ],
            cell=inline("cell", cell_picture.draw_cell(genotype)),
            pictures=_pictures(metrics, result, genotype),
            config=table(config),
            environment=table(machine),
            genotype=space.format(genotype),
            command=retrain_command(config, result, space.format(genotype)),
        )
    )
    write_text(folder / "report.html", page)


def write_cell(folder: Path, genotype: Genotype) -> None:
    """Write the picture of the architecture into `folder`, as `cell.svg` and `cell.png`."""
    figure = cell_picture.draw_cell(genotype)
    write_text(folder / "cell.svg", figures.to_svg(figure))
    with atomic_path(folder / "cell.png") as temporary:
        temporary.write_bytes(figures.to_png(figure))


def retrain_command(config: dict[str, Any], result: dict[str, Any], genotype: str) -> str:
    """The shell command that trains the network of a run from scratch.

    After a search it names the cell and its data; a final training is repeated from its own
    configuration.
    """
    if result["kind"] == "final":
        out = config["out"]
        words = ["--config", f"{out}/config.json", "--genotype", genotype, "--out", f"{out}-again"]
    else:
        words = ["--genotype", genotype, "--space", result["space"], "--dataset", config["dataset"]]
        if config["dataset"].startswith("cifar") and result["space"] in _FINAL_PRESETS:
            words = ["--preset", _FINAL_PRESETS[result["space"]], *words]
        if "data_root" in config:
            words += ["--data-root", config["data_root"]]
        words += ["--seed", str(config["seed"])]
    return " ".join(["train_final", *map(_quote, words)])


def _quote(word: str) -> str:
    """`word` for a shell, in double quotes where these read better."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def _search_tiles(result: dict[str, Any], metrics: list[dict[str, Any]], genotype: Genotype) -> list[Tile]:
    edges = sum(len(cell.edges) for cell in genotype.cells)
    skips = sum(genotype.count("skip_connect").values())
    return [
        Tile("Derived cell", *_percent(result["derived_accuracy"]), "validation, shared weights"),
        Tile("Skip connections", f"{skips}", f"of {edges} edges"),
        Tile("Entropy", f"{metrics[-1]['entropy']:.2f}" if metrics else "–", "nats", "mean, last epoch"),
        Tile("Supernet", *_count(result["parameters"]), "parameters"),
        Tile(
            "Search time",
            *_duration(result["total_seconds"]),
            f"{len(metrics)} epoch{'s'[: len(metrics) != 1]}",
        ),
    ]


def _final_tiles(result: dict[str, Any]) -> list[Tile]:
    tiles = [Tile("Test accuracy", *_percent(result["test_accuracy"]), "of the last epoch")]
    if baseline := result.get("baseline"):
        mean, deviation = baseline["random_mean"], baseline["random_std"]
        note = f"± {deviation:.2f} (std of {len(baseline['random_accuracies'])} cells)"
        tiles.append(Tile("Random cells", *_percent(mean), note))
    return [
        *tiles,
        Tile("Network", *_count(result["parameters"]), "parameters"),
        Tile("Cost", *_count(result["macs"]), "multiply-adds an image"),
        Tile("Training time", *_duration(result["total_seconds"])),
    ]


def _skipped_tile(result: dict[str, Any]) -> list[Tile]:
    skipped = result.get("skipped_steps", 0)
    return [Tile("Skipped steps", str(skipped), "", "loss or gradient not finite")] if skipped else []


def _pictures(metrics: list[dict[str, Any]], result: dict[str, Any], genotype: Genotype) -> list[Picture]:
    pictures = []
    if baseline := result.get("baseline"):
        figure = plots.draw_baseline(result["test_accuracy"], baseline["random_accuracies"])
        caption = "Architectures drawn at random and trained in the same way; the band is mean ± std."
        pictures.append(Picture("Against chance", inline("baseline", figure), caption))
    if not metrics:
        return pictures
    if result["kind"] == "final":
        caption = "Loss and accuracy on training and test images; the result is that of the last epoch."
        return [*pictures, Picture("Curves", inline("curves", plots.draw_curves(metrics)), caption)]
    space = search_spaces.get(genotype.space)
    probabilities = plots.draw_probabilities(
        space.by_operation(torch.tensor([m["probabilities"] for m in metrics], dtype=torch.float64)).numpy(),
        space.operations,
        space.labels,
        [line["epoch"] for line in metrics],
    )
    return [
        Picture(
            "Curves",
            inline("curves", plots.draw_curves(metrics)),
            "train: steps of the weights; validation: steps of the architecture; derived cell: the "
            "most probable architecture with the shared weights on the validation split.",
        ),
        Picture(
            "Probabilities",
            inline("probabilities", probabilities),
            "The share of every operation on every edge; edges are named source→target.",
        ),
        Picture(
            "Entropy",
            inline("entropy", plots.draw_entropy(metrics)),
            "How undecided the edges are: 0 when every edge has made its choice.",
            half=True,
        ),
        Picture(
            "Skip connections",
            inline("skips", plots.draw_skips(metrics)),
            "Edges without weights; in a search that collapses they take over the derived cell.",
            half=True,
        ),
    ]


def environment(loader: BaseLoader) -> Environment:
    """The template engine of all pages: everything is escaped, nothing may be undefined."""
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def inline(name: str, figure: Figure) -> Markup:
    """The figure as markup whose ids are unique within a page, if `name` is."""
    svg = figures.to_svg(figure)
    for reference in (' id="', "url(#", 'href="#'):
        svg = svg.replace(reference, f"{reference}{name}-")
    return Markup(svg)


def table(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of a table; what was not set is left out."""
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in data.items()
        if value is not None
    ]


def _percent(value: float | None) -> tuple[str, str]:
    return ("–", "") if value is None else (f"{value:.2f}", "%")


def _count(value: int) -> tuple[str, str]:
    """A large number and the letter of its magnitude, e.g. ("3.36", "M")."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}", letter
    return str(value), ""


def _duration(seconds: float) -> tuple[str, str]:
    """A time and its unit, e.g. ("1:23", "h")."""
    if seconds < 60:
        return f"{seconds:.1f}", "s"
    minutes = round(seconds / 60)
    return (f"{seconds / 60:.1f}", "min") if minutes < 60 else (f"{minutes // 60}:{minutes % 60:02d}", "h")
