"""Latencies of a machine: what the model makes of measurements, its file, and budgets from it."""

import json
import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import nas
import nas.timing
import search_spaces
from nas.latency import candidate_times
from nas.latency_table import fit, quality, read
from nas.timing import Settings, runner, timed
from recipes import InputError, commands
from search_spaces import GenotypeError
from search_spaces.cost import CostTable, NetworkSize, frame
from search_spaces.operations import Zero

SETTINGS = Settings("eager", "cpu", 1, "float32", True, 1, 3)
SMALL = {"channels": 4, "train_limit": 320, "batch_size": 32, "tensorboard": False, "progress": False}
PLACE = ["--channels", "4", "--image-size", "8", "--in-channels", "1", "--threads", "1"]
WORDS = ["--space", "micro", *PLACE, "--networks", "10", "--check", "5", "--rounds", "3"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("latency") / "latency.json"
    assert commands.main(["latency", *WORDS, "--out", str(path)]) == 0
    return path


@pytest.mark.parametrize("name", ["nasbench201", "darts"])
def test_the_model_finds_the_factors_of_operations(name):
    """Whole networks take other times than their candidates alone, and the measurements are noisy."""
    space, rng = search_spaces.get(name), np.random.default_rng(0)
    alone = torch.randint(50_000, 500_000, (space.num_slots, space.width), generator=torch.Generator())
    for row, slot in enumerate(space.slots):
        alone[row, [k for k, n in enumerate(slot.candidates) if n == "none"]] = 0
    factors = {n: 0.7 + 0.15 * i for i, n in enumerate(space.operations)}
    scale = torch.tensor([[factors[n] for n in slot.candidates] for slot in space.slots])
    truth = CostTable(900_000, (alone * scale).long())
    genotypes = [space.random(random.Random(i)) for i in range(80)]
    choices = [space.choice(genotype) for genotype in genotypes]
    measured = np.array([truth.of(choice) for choice in choices]) * rng.normal(1, 0.03, 80)
    costs, found = fit(space, alone, 500_000, choices[:40], measured[:40])
    score = quality(measured[40:], np.array([costs.of(choice) for choice in choices[40:]], float))
    assert score["within_10_percent"] > 0.95
    assert score["r2"] > 0.8
    assert min(found.values()) >= 0
    assert not costs.table[:, [k for k, n in enumerate(space.slots[0].candidates) if n == "none"]].any()


def test_runs_take_turns_and_the_fastest_count():
    calls = []
    times = timed([lambda: calls.append("a"), lambda: sum(range(40_000))], SETTINGS, False)
    assert times[1] > 20 * times[0] > 0
    assert len(calls) > 100  # short runs are repeated


def test_everything_is_compiled(monkeypatch):
    """Candidates share the code that torch.compile compiles at most eight times, unless told otherwise."""
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setattr(nas.timing.device, "require_compiler", lambda *_: None)
    space, size = search_spaces.get("nasbench201"), NetworkSize(4, 1, 10, 1, (8, 8))
    torch._dynamo.reset()
    _, places = frame(space, size)
    different = {candidate for place in places for candidate in place.candidates()}
    work = [candidate for candidate in different if not isinstance(candidate.build(), Zero)]
    candidate_times(space, places, replace(SETTINGS, engine="compiled"), False)
    assert len(compiled) == len(work) == 12


def test_a_network_is_run_as_the_settings_say(monkeypatch):
    network = search_spaces.get("micro").network(
        search_spaces.get("micro").random(random.Random(0)), channels=4, cells=1, in_channels=1
    )
    seen = []
    network.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output, module)))
    settings = Settings("eager", "cpu", 1, "bfloat16", True, 3, 3)
    runner(network, (1, 8, 8), settings)()
    ((images, output, module),) = seen
    assert images.shape == (3, 1, 8, 8)
    assert output.dtype == torch.bfloat16
    assert not module.training
    monkeypatch.setattr(nas.timing.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs onnx and onnxscript and onnxruntime"):
        runner(network, (1, 8, 8), Settings("onnxruntime", "cpu", 1, "float32", True, 1, 3))


def test_the_file_holds_all_that_was_measured(file):
    data = json.loads(file.read_text())
    space = search_spaces.get("micro")
    table = read(file, space)
    assert table.to_json(space) == data
    assert len(data["networks"]) == 15
    assert sum(not row["fitted"] for row in data["networks"]) == data["quality"]["networks"] == 5
    for row in data["networks"]:
        assert table.costs.of(space.choice(space.parse(row["genotype"]))) == row["predicted"]
        assert 10_000 < row["measured"] < 10**9
    alone = data["candidates"][0]
    assert alone["none"] == 0 < alone["skip_connect"] < alone["nor_conv_3x3"]
    assert data["machine"]["torch"] == torch.__version__
    assert data["settings"] == {
        "engine": "eager", "device": "cpu", "threads": 1, "precision": "float32", "channels_last": True,
        "batch_size": 1, "rounds": 3,
    }  # fmt: skip


def test_a_search_keeps_a_latency_and_a_training_measures_it(file, tmp_path):
    costs = read(file, search_spaces.get("micro")).costs
    limit = costs.fixed + int(costs.table.max())
    out = tmp_path / "run"
    result = nas.search(
        "micro",
        budget=f"latency={limit / 1000:.3f}us",
        latency_table=str(file),
        epochs=2,
        out=str(out),
        **SMALL,
    )
    predicted = result.summary["budget"]["costs"]["latency"]
    assert predicted == costs.of(result.space.choice(result.genotype)) <= limit
    assert (out / "latency.json").read_text() == file.read_text()
    assert f"--latency-table {file}" in (out / "report.html").read_text()
    trained = nas.train(result.genotype, latency_table=str(file), epochs=1, **SMALL)
    assert trained.summary["latency"]["predicted"] == predicted
    assert 10_000 < trained.summary["latency"]["measured"] < 10**9
    assert any("measured" in message for message in trained.messages)


def test_a_cell_that_no_supernet_has_is_in_no_table(file, monkeypatch):
    def choice(space, genotype):
        raise GenotypeError("the cell is strange")

    genotype = search_spaces.get("micro").random(random.Random(0))
    monkeypatch.setattr(search_spaces.SearchSpace, "choice", choice)
    with pytest.raises(InputError, match="knows cells of supernets, and the cell is strange"):
        nas.train(genotype, latency_table=str(file), epochs=1, **SMALL)


def test_tables_that_do_not_fit_are_refused(file, tmp_path):
    for space, options, said in (
        ("micro", {"channels": 8}, "is of networks with channels=4, these have channels=8"),
        ("micro", {"budget_image_size": 16}, "image_size=8x8|image_size"),
        ("nasbench201", {}, "is of the space 'micro', not of 'nasbench201'"),
    ):
        with pytest.raises(InputError, match=said):
            nas.search(space, latency_table=str(file), epochs=1, **(SMALL | options))
    data = json.loads(file.read_text())
    bad = tmp_path / "bad.json"
    for change in (
        {"kind": "search"}, {"fixed": -1}, {"fixed": 1.5}, {"table": data["table"][:-1]}, {"size": {}},
        {"table": [dict.fromkeys(row, "x") for row in data["table"]]}, {"settings": {"engine": "eager"}},
        {"table": [{**row, "more": 1} for row in data["table"]]}, {"quality": 3},
        *({"settings": data["settings"] | wrong} for wrong in (
            {"rounds": "x"}, {"rounds": 0}, {"engine": "tflite"}, {"precision": "float16"}, {"threads": None},
        )),
    ):  # fmt: skip
        bad.write_text(json.dumps(data | change))
        with pytest.raises(InputError, match="cannot be read"):
            read(bad, search_spaces.get("micro"))
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "missing.json", search_spaces.get("micro"))


def test_what_a_table_cannot_measure_is_said_before_the_first_step(file, tmp_path, monkeypatch):
    data, other = json.loads(file.read_text()), tmp_path / "other.json"
    cell = search_spaces.get("micro").format(search_spaces.get("micro").random(random.Random(0)))
    options = SMALL | {"latency_table": str(other), "epochs": 1}
    other.write_text(json.dumps(data | {"machine": data["machine"] | {"processor": "another"}}))
    said = []
    trained = nas.train(cell, out=tmp_path / "run", announce=said.append, **options)
    assert any(
        "no latency will be measured: the table is of another machine, processor another" in s for s in said
    )
    assert trained.summary["latency"].keys() == {"predicted"}
    assert "predicted, not measured" in (tmp_path / "run" / "report.html").read_text()
    other.write_text(json.dumps(data | {"settings": data["settings"] | {"engine": "onnxruntime"}}))
    util, find = nas.timing.importlib.util, nas.timing.importlib.util.find_spec
    there = []
    monkeypatch.setattr(
        util, "find_spec", lambda name: (name in there or None) if "onnx" in name else find(name)
    )
    with pytest.raises(InputError, match="needs onnx and onnxscript"):
        nas.train(cell, callback=lambda metrics: pytest.fail("trained"), **options)
    there += ["onnx", "onnxscript", "onnxruntime"]
    monkeypatch.setattr(nas.timing, "_onnx_runner", lambda *_: 1 / 0)
    trained = nas.train(cell, out=tmp_path / "failed", **options)
    assert any("not measured: division by zero" in message for message in trained.messages)
    assert (tmp_path / "failed" / "model.safetensors").exists()


def test_bad_words_end_in_one_line(capsys, tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    for words, said in (
        (["--out", str(tmp_path / "notes.txt")], "is there already: give --overwrite to replace it"),
        (["--overwrite", "--device", "cuda:77", "--out", str(tmp_path / "notes.txt")], "not available"),
        (["--space", "nowhere"], "unknown search space"),
        (["--engine", "onnxruntime", "--precision", "bfloat16"], "computes in float32"),
        (["--rounds", "1"], "--rounds is 1"),
        (["--space", "micro", "--networks", "200"], "has only"),
        (["--out", str(tmp_path / "no" / "file.json")], "expected a file in a folder that exists"),
        (["--out", str(tmp_path)], "expected a file in a folder that exists"),
        (["--space", "micro", "--planned-size", "64"], "means nothing to the space 'micro'"),
        (["--device", "cuda:77"], "not available"),
    ):
        assert commands.main(["latency", *words]) == 2
        assert said in capsys.readouterr().err
