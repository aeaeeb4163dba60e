"""Figures, the HTML report and the TensorBoard events."""

import io
import json
import math
import random
import re
import shlex
import threading
from itertools import combinations, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import search_spaces
from nas.report import (
    budget_report,
    cell_picture,
    chain_picture,
    figures,
    labels,
    palette,
    plots,
    tensorboard,
)
from nas.report import run_report as report
from nas.report.tensorboard import Board
from search_spaces import CellGenotype, Edge, Genotype
from search_spaces.nasbench201 import DenseCellSpace

NASTY = "<script>alert('$x$ & \"y\"')</script>"


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def search_metrics(space, epochs):
    """Metrics of a search whose edges become ever more certain of a random choice."""
    genotype = space.random(random.Random(0))
    direction = np.random.default_rng(0).normal(size=(space.num_slots, space.width))
    return [
        {
            "epoch": epoch,
            "step": 10 * epoch,
            "tau": 1.0,
            "lr": 0.1,
            "train_loss": 2 / epoch,
            "train_accuracy": 50.0 + epoch,
            "valid_loss": None if epoch == 1 else 2.5 / epoch,
            "valid_accuracy": None if epoch == 1 else 45.0 + epoch,
            "derived_loss": None,
            "derived_accuracy": 40.0 + epoch,
            "genotype": space.format(genotype),
            "entropy": 1.0 / epoch,
            "skip_connects": genotype.count("skip_connect"),
            "nones": genotype.count("none"),
            "probabilities": softmax(epoch * direction).tolist(),
            "epoch_seconds": 2.0,
        }
        for epoch in range(1, epochs + 1)
    ]


def final_metrics(epochs):
    return [
        {
            "epoch": epoch,
            "step": 10 * epoch,
            "lr": 0.1,
            "train_loss": 1 / epoch,
            "train_accuracy": 60.0 + epoch,
            "test_loss": math.nan if epoch == 1 else 1.2 / epoch,
            "test_accuracy": None if epoch == 1 else 55.0 + epoch,
            "drop_path": 0.0,
            "epoch_seconds": 2.0,
        }
        for epoch in range(1, epochs + 1)
    ]


def run_folder(path, space_name, kind="search", epochs=4, **changes):
    """A folder as a finished run leaves it; `changes` go into its result."""
    space = search_spaces.get(space_name)
    genotype = space.random(random.Random(1))
    text = space.format(genotype)
    metrics = search_metrics(space, epochs) if kind == "search" else final_metrics(epochs)
    result = {
        "kind": kind,
        "space": space_name,
        "dataset": "digits",
        "seed": 3,
        "genotype": text,
        "parameters": 1_234_567,
        "warnings": [],
        "total_seconds": 5000.0,
    }
    if kind == "search":
        result |= {"estimator": "reinmax", "derived_accuracy": 87.654}
    else:
        result |= {"test_accuracy": 91.234, "test_loss": 0.3, "macs": 98_700_000}
    config = {"kind": kind, "space": space_name, "dataset": "digits", "seed": 3, "epochs": epochs}
    config |= {"out": "runs/a run", "flip": None, "hostile": NASTY}
    path.mkdir()
    for name, data in {
        "config": config,
        "result": result | changes,
        "environment": {"python": "3.11", "command": NASTY},
        "genotype": genotype.to_json() | {"text": text},
    }.items():
        (path / f"{name}.json").write_text(json.dumps(data))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    return path


def render(folder):
    report.render_report(folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_every_operation_has_a_colour():
    names = {name for space in map(search_spaces.get, search_spaces.names()) for name in space.operations}
    assert names <= palette._KNOWN.keys()
    assert len({palette.operation_colour(name) for name in names}) == len(names)


def test_names_from_outside_have_colours_of_their_own(monkeypatch):
    monkeypatch.setattr(palette, "_KNOWN", dict(palette._KNOWN))
    known = set(palette._KNOWN.values())
    for colour in (palette.estimator_colour, palette.operation_colour):
        shades = [colour(name) for name in ("mine", "yours", "theirs")]
        assert shades == [colour(name) for name in ("mine", "yours", "theirs")]
        assert len({*shades}) == 3
        assert not known & {*shades}
        assert all(re.fullmatch("#[0-9a-f]{6}", shade) for shade in shades)
    assert palette.estimator_colour("mine:size=3,draws=4") == palette.estimator_colour("mine")
    palette.register("mine", "#AABBCC")
    assert palette.estimator_colour("mine") == palette.operation_colour("mine") == "#aabbcc"
    with pytest.raises(ValueError, match="expected #rrggbb"):
        palette.register("mine", "red")


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("blocks", [1, 5, 21])
def test_a_chain_is_wrapped_over_lines(blocks, stages):
    names = [f"mbconv_{3 + 2 * (i % 3)}x{3 + 2 * (i % 3)}_e6" for i in range(blocks)]
    edges = tuple(Edge(i, i + 1, name) for i, name in enumerate(names))
    genotype = Genotype("mine", tuple(CellGenotype(f"stage {s + 1}", edges) for s in range(stages)))
    lines = chain_picture.lines_of(genotype)
    assert [name for line in lines for name in line.operations] == names * stages
    assert [line.stage for line in lines if line.stage] == [f"stage {s + 1}" for s in range(stages)]
    figure = cell_picture.plot_cell(genotype)
    assert figure.get_figwidth() <= figures.WIDTH
    svg = figures.to_svg(figure)
    assert svg.count(">input</text>") == svg.count(">output</text>") == 1
    assert svg.count(">stage 1</text>") == (stages > 1)
    assert all(svg.count(f">{name}</text>") == stages * names.count(name) for name in names)
    figure.canvas.draw()
    texts = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    assert not any(a.overlaps(b) for a, b in combinations(texts, 2))
    for patch in figure.axes[0].patches:
        frame = patch.get_window_extent()
        inside = [text for text in texts if frame.overlaps(text)]
        assert len(inside) == 1
        assert frame.x0 < inside[0].x0
        assert inside[0].x1 < frame.x1


def several(rows):
    """A space whose slots have different candidates."""
    operations = tuple(dict.fromkeys(name for row in rows for name in row))
    slots = [SimpleNamespace(candidates=row, label=f"slot {i}") for i, row in enumerate(rows)]
    labels = [slot.label for slot in slots]
    return SimpleNamespace(slots=slots, num_slots=len(slots), operations=operations, labels=labels)


def test_probabilities_of_slots_with_different_candidates():
    space = several([("a", "b"), ("b", "c", "a"), ("skip_connect",)])
    moments = [[[0.25, 0.75], [0.5, 0.3, 0.2], [1.0]], [[0.1, 0.9, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]]
    table = plots.shares(space, moments)
    nan = math.nan
    first = [[0.25, 0.75, nan, nan], [0.2, 0.5, 0.3, nan], [nan, nan, nan, 1.0]]
    assert np.array_equal(table[0], first, equal_nan=True)
    svg = figures.to_svg(plots.plot_probabilities(space, moments, [1, 2]))
    assert all(f">{name}</text>" in svg for name in (*space.operations, *space.labels))
    svg = figures.to_svg(plots.plot_heat_map(space, moments[0]))
    assert (
        sum(svg.count(f">{value}</text>") for value in ("0.25", "0.75", "0.20", "0.50", "0.30", "1.00")) == 6
    )
    assert "nan" not in svg
    metrics = [{"epoch": 1, "entropy": 0.5, "probabilities": moments[0]}]
    uniform = (math.log(2) + math.log(3)) / 3
    assert f">uniform {uniform:.2f}</text>" in figures.to_svg(plots.plot_entropy(metrics))


def test_figures_grow_with_the_slots():
    heights = []
    for count in (4, 28, 60):
        space = several([("a", "b")] * count)
        figure = plots.plot_probabilities(space, [[[0.5, 0.5]] * count], [1])
        heights.append(figure.get_figheight() / -(-count // 7))
        assert figure.get_figwidth() == figures.WIDTH
    assert min(heights) > 1.2  # inches for a row of panels


@pytest.mark.parametrize("name", search_spaces.names())
def test_cell_names_every_operation(name):
    genotype = search_spaces.get(name).random(random.Random(5))
    svg = figures.to_svg(cell_picture.plot_cell(genotype))
    assert svg.startswith("<svg")
    for operation in {edge.operation for cell in genotype.cells for edge in cell.edges}:
        drawn = sum(genotype.count(operation).values())
        assert len(re.findall(rf">{operation}</text>", svg)) == drawn


@pytest.mark.parametrize("name", search_spaces.names())
def test_cell_is_legible(name):
    """No label lies on another or on a node, no edge runs through a node, all of it on the canvas."""
    space = search_spaces.get(name)
    width, height = cell_picture._BOX
    for seed in range(15):
        for cell in space.random(random.Random(seed)).cells:
            layout = cell_picture.CellLayout(cell)
            labels = list(zip(layout.curves, layout.labels(), strict=True))
            for i, (curve, (x, y)) in enumerate(labels):
                half = cell_picture.label_width(curve.edge.operation) / 2
                assert half < x < layout.width - half
                assert layout.bottom + 0.1 < y < layout.top - 0.1
                for other, (u, v) in labels[:i]:
                    apart = half + cell_picture.label_width(other.edge.operation) / 2
                    assert abs(x - u) > apart or abs(y - v) > 0.22
                points = curve.at(np.linspace(0, 1, 50))
                for u, v in layout.nodes:
                    assert abs(x - u) > half + width / 2 or abs(y - v) > 0.1 + height / 2
                    inside = (np.abs(points - (u, v)) < (width / 2 - 1e-6, height / 2 - 1e-6)).all(1)
                    assert not inside.any()


def test_dense_cells_have_no_crossings():
    space = search_spaces.get("nasbench201")
    layout = cell_picture.CellLayout(space.random(random.Random(0)).cells[0])
    for a in layout.sides:
        for b in layout.sides:
            assert layout.sides[a] != layout.sides[b] or not layout._cross(a, b)


def test_cells_of_many_nodes_are_laid_out_at_once():
    space = DenseCellSpace("many", nodes=9, channels=4, cells=1)
    layout = cell_picture.CellLayout(space.random(random.Random(0)).cells[0])
    assert len(layout.sides) == 28
    assert set(layout.sides.values()) == {1, -1}


def test_black_is_a_colour():
    assert palette.readable("#000000") == "#000000"


def test_an_undecided_candidate_by_itself_has_the_entropy_of_a_coin():
    lines = [{"epoch": e, "entropy": math.log(2), "probabilities": [[0.5] * 8] * 3} for e in (1, 2)]
    assert f">uniform {math.log(2):.2f}</text>" in figures.to_svg(plots.plot_entropy(lines))


def test_the_front_is_joined_by_cost():
    """Under a larger budget a rule may end with less."""
    rows = [
        {"limit": limit, "costs": {"macs": cost}, "derived_accuracy": accuracy, "pareto": True}
        for limit, cost, accuracy in ((20e6, 19e6, 65.0), (40e6, 18e6, 60.0))
    ]
    axes = budget_report.plot_front({"kind": "macs", "rows": rows}).axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[18, 60], [19, 65]]


def test_what_was_considered_is_the_best_of_it():
    def shown(rows):
        (table,) = report._considered({"considered": rows, "rule": "x"})
        return [row[0] for row in table.rows]

    scored = [{"genotype": f"g{i}", "synflow": 30.0 - i} for i in range(30)]
    assert shown(scored) == [f"g{i}" for i in range(20)]
    looks = [
        {"genotype": f"without {k} in {d}", "accuracy": float((3 * k + d) % 5), "decision": d}
        for d in range(1, 7)
        for k in range(5)
    ]
    first = [min(looks[5 * d : 5 * d + 5], key=lambda row: row["accuracy"]) for d in range(6)]
    assert shown(looks)[::3] == [row["genotype"] for row in first]
    assert len(shown(looks)) == 18


def test_rendering_is_deterministic():
    genotype = search_spaces.get("darts").random(random.Random(2))
    one, two = cell_picture.plot_cell(genotype), cell_picture.plot_cell(genotype)
    assert figures.to_svg(one) == figures.to_svg(two) == figures.to_svg(one)
    assert figures.to_png(one, 50) == figures.to_png(two, 50)
    pixels = figures.to_pixels(one)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, Image.open(io.BytesIO(figures.to_png(one, 100))).convert("RGB"))


@pytest.mark.parametrize("epochs", [1, 150])
def test_figures_of_a_search(epochs):
    space = search_spaces.get("darts")
    metrics = search_metrics(space, epochs)
    probabilities = [line["probabilities"] for line in metrics]
    figure = plots.plot_probabilities(space, probabilities, range(1, epochs + 1))
    svg = figures.to_svg(figure)
    assert all(f">{label}</text>" in svg for label in space.labels)
    assert all(svg.count(f">{operation}</text>") == 1 for operation in space.operations)
    assert len(svg) < 700_000
    assert ">derived " in figures.to_svg(plots.plot_curves(metrics))
    assert f">uniform {math.log(8):.2f}</text>" in figures.to_svg(plots.plot_entropy(metrics))
    skips = figures.to_svg(plots.plot_skips(metrics))
    assert "normal cell" in skips
    assert "reduce cell" in skips


def test_curves_skip_what_was_not_measured():
    svg = figures.to_svg(plots.plot_curves(final_metrics(5)))
    assert ">test 60.0</text>" in svg
    assert ">train 65.0</text>" in svg
    assert "validation" not in svg
    assert "nan" not in svg


def test_spread_keeps_order_and_distance():
    assert labels.spread([0.0, 1.0], 0.1) == [0.0, 1.0]
    assert labels.spread([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
    rng = random.Random(0)
    for _ in range(50):
        wanted = sorted(rng.random() for _ in range(6))
        placed = labels.spread(wanted, 0.2)
        assert all(b - a > 0.2 - 1e-9 for a, b in pairwise(placed))


@pytest.mark.parametrize("name", search_spaces.names())
def test_search_report(tmp_path, name):
    html = render(run_folder(tmp_path / "run", name, warnings=["the search has collapsed: " + NASTY]))
    for text in ("reinmax in " + name, "87.65", "1.23", "1:23", "the search has collapsed", "entropy"):
        assert text in html
    assert 'class="warning"' in html


def test_final_report(tmp_path):
    baseline = {"random_mean": 85.0, "random_std": 2.0, "random_accuracies": [83.0, 85.0, 87.0]}
    html = render(run_folder(tmp_path / "old", "nasbench201", "final", baseline=baseline))
    for text in ("91.23", "98.7", "85.00", "3 random", "Without a search"):
        assert text in html
    assert "largest cell" not in html
    baseline["largest_accuracy"] = 86.5
    html = render(run_folder(tmp_path / "run", "nasbench201", "final", baseline=baseline))
    for text in ("86.50", "3 random", "largest cell", "Largest cell"):
        assert text in html
    assert 'class="warning"' not in html
    assert "Without a search" not in render(run_folder(tmp_path / "plain", "nasbench201", "final"))


def test_report_is_self_contained_valid_and_escaped(tmp_path):
    html = render(run_folder(tmp_path / "run", "nasbench201", warnings=[NASTY]))
    assert not re.findall(r"""(?:src|href|rel|resource)=["']?\s*(?:https?:)?//""", html)
    assert not re.findall(r"<(?:script|link|img|iframe)\b|@import|url\((?!#)", html)
    assert html.count("&lt;script&gt;") == 3  # configuration, environment, warning
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:url\(|href=")#([^")]+)', html)
    assert set(references) <= set(ids)


def test_report_of_unfinished_metrics_and_single_epoch(tmp_path):
    assert "0 epochs" in render(run_folder(tmp_path / "none", "micro", epochs=0))
    assert "1 epoch<" in render(run_folder(tmp_path / "one", "micro", epochs=1))


def test_files_are_replaced_and_nothing_is_left_over(tmp_path):
    folder = run_folder(tmp_path / "run", "micro")
    before = {path.name for path in folder.iterdir()}
    genotype = search_spaces.get("micro").random(random.Random(1))
    for _ in range(2):
        report.write_cell(folder, genotype)
        report.render_report(folder)
    assert {path.name for path in folder.iterdir()} - before == {"cell.svg", "cell.png", "report.html"}
    assert (folder / "cell.png").read_bytes().startswith(b"\x89PNG")
    first = (folder / "report.html").read_bytes()
    report.render_report(folder)
    assert (folder / "report.html").read_bytes() == first


@pytest.mark.parametrize("name", search_spaces.names())
def test_retrain_command_is_one_that_a_shell_splits_again(name):
    space = search_spaces.get(name)
    genotype = space.format(space.random(random.Random(7)))
    config = {"dataset": "folder:my data", "seed": 3, "out": "runs/$a b", "data_root": "data"}
    for kind in ("search", "final"):
        command = report.retrain_command(config, {"kind": kind, "space": name}, genotype)
        words = shlex.split(command)
        assert words[0] == "train_final"
        assert words[words.index("--genotype") + 1] == genotype
        known = config["dataset"] if kind == "search" else f"{config['out']}/config.json"
        assert known in words
    config |= {"image_size": 64, "planned_size": 96, "pixel_range": "0:4095", "channels_in": "auto"}
    words = shlex.split(report.retrain_command(config, {"kind": "search", "space": name}, genotype))
    stated = {words[i]: words[i + 1] for i in range(1, len(words) - 1) if words[i].startswith("--")}
    for option, value in (("image-size", "64"), ("planned-size", "96"), ("pixel-range", "0:4095")):
        assert stated[f"--{option}"] == value
    assert "--channels-in" not in stated


def events(folder):
    sizes = {"images": 0, "scalars": 0, "tensors": 0}
    return EventAccumulator(str(folder / "tensorboard"), sizes).Reload()


def test_board_of_a_search(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "IMAGE_EVERY", 2)
    folder = run_folder(tmp_path / "run", "nasbench201")
    space = search_spaces.get("nasbench201")
    board = Board(folder, space, 0, 5)
    for line in search_metrics(space, 5):
        board.epoch(line)
    options = {"lr": 0.1, "space": "nasbench201", "seed": 1, "cells": None}
    board.conclude(space.random(random.Random(0)), options, {"seed": 1, "parameters": 7})
    board.close()
    read = events(folder)
    tags = read.Tags()
    expected = {"loss/train", "loss/valid", "accuracy/derived", "search/entropy", "search/skip_connects/cell"}
    expected |= {
        "search/nones/cell",
        "schedule/lr",
        "schedule/tau",
        "time/epoch_seconds",
        "result/parameters",
    }
    assert expected <= set(tags["scalars"])
    assert "loss/derived" not in tags["scalars"]  # always null
    assert [event.step for event in read.Scalars("loss/train")] == [1, 2, 3, 4, 5]
    assert [event.step for event in read.Scalars("loss/valid")] == [2, 3, 4, 5]
    assert [event.step for event in read.Images("probabilities")] == [2, 4, 5]
    assert [event.step for event in read.Images("cell")] == [6]
    assert all(path.is_file() for path in (folder / "tensorboard").iterdir())


def test_threads_have_their_excepthook_again(tmp_path):
    before = threading.excepthook
    board = Board(tmp_path, search_spaces.get("micro"), 0, 5)
    assert threading.excepthook != before
    board.close()
    board.close()
    assert threading.excepthook == before


def test_board_forgets_what_a_resumed_run_repeats(tmp_path):
    folder = run_folder(tmp_path / "run", "micro", "final")
    lines = final_metrics(5)
    first = Board(folder, search_spaces.get("micro"), 0, 5)
    for line in lines[:4]:
        first.epoch(line)
    first.close()
    second = Board(folder, search_spaces.get("micro"), 2, 5)
    for line in lines[2:]:
        second.epoch(line)
    second.close()
    read = events(folder)
    assert [event.step for event in read.Scalars("loss/train")] == [1, 2, 3, 4, 5]
    assert [event.step for event in read.Scalars("loss/test")] == [2, 3, 4, 5]
