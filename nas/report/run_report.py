"""The report of a run: one HTML page that needs nothing but itself."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import search_spaces
from nas.report import budget_report, cell_picture, classes, figures, page, plots
from nas.report.page import Picture, Table, Tile
from nas.runs.files import atomic_path, read_json, read_json_lines, write_text
from recipes import FinalOptions
from recipes.budget import split_cost
from recipes.errors import with_flags
from search_spaces import Genotype, SearchSpace, operations

# Recipes of the publications for their data, which a cell found there is to be retrained with.
_FINAL_PRESETS = {"nasbench201": "nasbench201-200", "darts": "darts-600"}
DATA_OPTIONS = (
    "image_size", "planned_size", "channels_in", "pixel_range", "bad_images", "test_fraction",
    "class_weights", "sampling",
)  # fmt: skip
_WATCHED = {
    "curvature": (
        "largest eigenvalue",
        "How curved the validation loss of the mixture is, by the logits, on one batch: the largest "
        "eigenvalue of its Hessian. In a search that collapses it rises.",
    ),
    "alignment": (
        "mean cosine of the cells' gradients",
        "How far the cells of a kind want the same architecture, on one batch: 1 if all pull the "
        "probabilities in one direction, 0 if each has a direction of its own.",
    ),
}
CONSIDERED = 20  # architectures in the table of what a rule of selection looked at


def render_report(folder: Path, space: SearchSpace | None = None) -> None:
    """Write `report.html` into the folder of a finished run, from the other files in it.

    Args:
        space: of the run; by default the registered one of its name.
    """
    config, result, machine, genotype_json = (
        read_json(folder / f"{name}.json") for name in ("config", "result", "environment", "genotype")
    )
    metrics = read_json_lines(folder / "metrics.jsonl")
    space = space or search_spaces.get(genotype_json["space"])
    genotype = space.validate(Genotype.from_json(genotype_json))
    text = space.format(genotype)
    search = result["kind"] == "search"
    subject = f"{result['estimator']} in {space.name}" if search else f"{space.name} {_unit(genotype)}"
    tiles = _search_tiles(result, metrics, genotype) if search else _final_tiles(result)
    if skipped := result.get("skipped_steps", 0):
        tiles.append(Tile("Skipped steps", str(skipped), "", "loss or gradient not finite"))
    tiles[1:1] = classes.tiles(result)
    texts = {
        "Genotype": text,
        "Retrain it": retrain_command(config, result, text),
        "Data, as they were understood": with_flags(result["data"]),
    }
    html = page.render(
        "Architecture search" if search else "Final training",
        f"{subject} on {result['dataset']}",
        f"seed {result['seed']}, {len(metrics)} epoch{'s'[: len(metrics) != 1]}",
        warnings=[with_flags(warning) for warning in result["warnings"]],
        tiles=tiles,
        pictures=[
            Picture("Architecture", cell_picture.plot_cell(genotype), wide=False),
            *budget_report.front_pictures(result),
            *_pictures(metrics, result, space, genotype),
            *classes.pictures(result),
        ],
        tables=[
            *budget_report.front_tables(result),
            *classes.tables(result),
            *_taken_out(result),
            *_considered(result),
        ],
        texts=texts,
        settings={"Configuration": config, "Environment": machine},
    )
    write_text(folder / "report.html", html)


def write_cell(folder: Path, genotype: Genotype) -> None:
    """Write the picture of the architecture into `folder`, as `cell.svg` and `cell.png`."""
    figure = cell_picture.plot_cell(genotype)
    write_text(folder / "cell.svg", figures.to_svg(figure))
    with atomic_path(folder / "cell.png") as temporary:
        temporary.write_bytes(figures.to_png(figure))


def retrain_command(config: dict[str, Any], result: dict[str, Any], genotype: str) -> str:
    """The command that trains the network of a run from scratch: of the shell, or of Python where the data
    were objects, which no name leads to.

    After a search it names the cell and its data; a final training is repeated from its own
    configuration.
    """
    if "dataset" in config.get("objects", ()):
        return f"nas.train({genotype!r}, data=..., seed={config['seed']})"
    if result["kind"] == "final":
        out = config["out"]
        words = ["--config", f"{out}/config.json", "--genotype", genotype, "--out", f"{out}-again"]
    else:
        words = ["--genotype", genotype, "--space", result["space"], "--dataset", config["dataset"]]
        if config["dataset"].startswith("cifar") and result["space"] in _FINAL_PRESETS:
            words = ["--preset", _FINAL_PRESETS[result["space"]], *words]
        if "data_root" in config:
            words += ["--data-root", config["data_root"]]
        for name in DATA_OPTIONS:  # that change what the data set is
            if (value := config.get(name)) not in (None, getattr(FinalOptions(), name)):
                words += [f"--{name.replace('_', '-')}", str(value)]
        if size := result.get("budget", {}).get("size"):
            words += ["--channels", str(size["channels"]), "--cells", str(size["cells"])]
        if table := config.get("latency_table"):
            words += ["--latency-table", table]
        words += ["--seed", str(config["seed"])]
    if config.get("plugins"):
        words = ["--plugins", *config["plugins"], *words]
    return " ".join(["train_final", *map(_quote, words)])


def _quote(word: str) -> str:
    """`word` for a shell, in double quotes where these read better."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def _search_tiles(result: dict[str, Any], metrics: list[dict[str, Any]], genotype: Genotype) -> list[Tile]:
    edges = [edge for cell in genotype.cells for edge in cell.edges]
    skips = sum(operations.count(genotype, "skip").values())
    depth = Tile("Skip connections", f"{skips}", f"of {len(edges)} edges")
    if genotype.is_chain:
        depth = Tile("Depth", f"{len(edges) - skips}", f"of {len(edges)} blocks", "others are the identity")
    epochs = f"{len(metrics)} epoch{'s'[: len(metrics) != 1]}"
    return [
        Tile(
            f"Derived {_unit(genotype)}", *_percent(result["derived_accuracy"]), "validation, shared weights"
        ),
        *budget_report.tiles(result),
        depth,
        Tile("Entropy", f"{metrics[-1]['entropy']:.2f}" if metrics else "–", "nats", "mean, last epoch"),
        Tile("Supernet", *split_cost("parameters", result["parameters"]), "parameters"),
        Tile("Search time", *_duration(result["total_seconds"]), epochs),
    ]


def _final_tiles(result: dict[str, Any]) -> list[Tile]:
    tiles = [Tile("Test accuracy", *_percent(result["test_accuracy"]), "of the last epoch")]
    if baseline := result.get("baseline"):
        mean, deviation = baseline["random_mean"], baseline["random_std"]
        note = f"± {deviation:.2f} (std of {len(baseline['random_accuracies'])} cells)"
        tiles.append(Tile("Random cells", *_percent(mean), note))
        tiles.append(Tile("Largest cell", *_percent(baseline["largest_accuracy"]), "without a search"))
    return [
        *tiles,
        Tile("Network", *split_cost("parameters", result["parameters"]), "parameters"),
        Tile("Cost", *split_cost("macs", result["macs"]), "multiply-adds an image"),
        *budget_report.final_tiles(result),
        Tile("Training time", *_duration(result["total_seconds"])),
    ]


def _unit(genotype: Genotype) -> str:
    """What an architecture is called."""
    return "network" if genotype.is_chain else "cell"


def _pictures(
    metrics: list[dict[str, Any]], result: dict[str, Any], space: SearchSpace, genotype: Genotype
) -> list[Picture]:
    pictures = []
    if baseline := result.get("baseline"):
        figure = plots.plot_baseline(
            result["test_accuracy"], baseline["random_accuracies"], baseline["largest_accuracy"]
        )
        caption = (
            "Architectures drawn at random, and the one with most parameters, trained in the same way; the "
            "band is mean ± std."
        )
        pictures.append(Picture("Without a search", figure, caption))
    if not metrics:
        return pictures
    curves = plots.plot_curves(metrics)
    if result["kind"] == "final":
        caption = (
            "Loss and accuracy on the images of every part; the result is that of the last epoch, whatever "
            "the validation part says."
            if "valid_loss" in metrics[0]
            else "Loss and accuracy on training and test images; the result is that of the last epoch."
        )
        return [*pictures, Picture("Curves", curves, caption)]
    moments, epochs = [m["probabilities"] for m in metrics], [m["epoch"] for m in metrics]
    probabilities = plots.plot_probabilities(space, moments, epochs)
    trained = (
        "train: steps of the weights; validation: steps of the architecture; derived: the most probable "
        "architecture with the shared weights on the validation split."
    )
    share = "The share of every operation on every edge; edges are named source→target."
    if genotype.is_chain:
        share = "The share of every operation in every block."
    terms = []
    if set(metrics[-1].get("terms", ())) - {"budget"}:  # which has a picture of its own
        caption = "What the architecture step minimises beside the loss, weighted as it is there."
        terms = [Picture("Terms", plots.plot_terms(metrics), caption)]
    watched = [
        Picture(name.capitalize(), plots.plot_watched(metrics, name, title), caption, half=True)
        for name, (title, caption) in _WATCHED.items()
        if any(name in line for line in metrics)
    ]
    undecided = "How undecided the edges are: 0 when every edge has made its choice."
    skips = "Edges without weights; in a search that collapses they take over the derived cell."
    ways = Picture("Skip connections", plots.plot_skips(metrics), skips, half=True)
    if genotype.is_chain:
        blocks = {cell.name: len(cell.edges) for cell in genotype.cells}
        deep = "Blocks of each stage of the most probable network that are more than the identity."
        ways = Picture("Depth", plots.plot_depth(metrics, blocks), deep, half=True)
    return [
        Picture("Curves", curves, trained),
        Picture("Probabilities", probabilities, share),
        Picture("Entropy", plots.plot_entropy(metrics), undecided, half=True),
        ways,
        *watched,
        *budget_report.pictures(metrics),
        *terms,
    ]


def _taken_out(result: dict[str, Any]) -> list[Table]:
    """The candidates that were taken out while the search ran."""
    after: dict[int, list[str]] = {}
    for row in result.get("taken_out", []):
        after.setdefault(row["epoch"], []).append(f"{row['candidate']} in {row['slot']}")
    rows = [[str(epoch), ", ".join(names)] for epoch, names in after.items()]
    return [Table("Taken out", ["after epoch", "candidates"], rows, result["shrink"])] if rows else []


def _considered(result: dict[str, Any]) -> list[Table]:
    """What the rule of selection looked at, the best first; of trainings, the longest before all others."""
    rows = result.get("considered", [])
    if not rows:
        return []
    measures, how = [name for name in rows[0] if name != "genotype"], ""
    if "decision" in rows[0]:  # by what is missed most, of every decision
        by_decision: dict[float, list[dict[str, Any]]] = {}
        for row in sorted(rows, key=lambda row: (row["decision"], row["accuracy"])):
            by_decision.setdefault(row["decision"], []).append(row)
        each, how = max(1, CONSIDERED // len(by_decision)), ", of every decision those missed most"
        shown = [row for few in by_decision.values() for row in few[:each]]
    else:
        ordered = sorted(rows, key=lambda row: (row.get("epochs", 0), row.get("accuracy", 0)), reverse=True)
        shown = ordered[:CONSIDERED]
    cells = [[row["genotype"], *(f"{row[m]:.4g}" for m in measures)] for row in shown]
    count = len({row["genotype"] for row in rows})
    note = f"{result['rule']}: {count} considered, the first {len(shown)} of {len(rows)} rows{how}."
    return [Table("Considered in the end", ["considered", *measures], cells, note)]


def _percent(value: float | None) -> tuple[str, str]:
    return ("–", "") if value is None else (f"{value:.2f}", "%")


def _duration(seconds: float) -> tuple[str, str]:
    """A time and its unit, e.g. ("1:23", "h")."""
    if seconds < 60:
        return f"{seconds:.1f}", "s"
    minutes = round(seconds / 60)
    return (f"{seconds / 60:.1f}", "min") if minutes < 60 else (f"{minutes // 60}:{minutes % 60:02d}", "h")
