"""Every benchmark at toy size: its table is complete, its ratios are ratios, and its bounds hold."""

import json
import resource
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, run_environment

import estimators as registry
from benchmarks import data, estimators, final, gpu, gpu_step, mobile, price, search, step, subjects, timing
from benchmarks.timing import BenchmarkOptions, Report, Row
from recipes import InputError
from search_spaces import batched_products

QUICK = ["--repeats", "1", "--threads", "1"]
TOY = ["--channels", "4", "--cells", "3", "--batch-size", "4"]


def rows_of(module, options_class, arguments, capsys, path):
    """The rows that the benchmark leaves in its JSON file, by (what, to), after checking its table."""
    name = module.__name__.rpartition(".")[2]
    assert timing.main(name, options_class, module.run, [*arguments, "--json", str(path)]) == 0
    document = json.loads(path.read_text())
    assert document["benchmark"] == name
    assert document["machine"]["torch"] == torch.__version__
    table = capsys.readouterr().out
    values = {row["what"]: row["value"] for row in document["rows"]}
    for row in document["rows"]:
        assert row["what"] in table
        assert row["ratio"] is None or (row["ratio"] > 0 and row["to"])
    return values, document


@pytest.fixture
def processor_time(monkeypatch):
    """Let benchmarks take processor time, which other work on the machine adds little to."""
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=time.process_time))


@pytest.mark.usefixtures("processor_time")
@pytest.mark.parametrize("space", ["nasbench201", pytest.param("darts", marks=pytest.mark.slow)])
def test_step(space, capsys, tmp_path):
    arguments = ["--space", space, *TOY, *QUICK, "--no-memory"]
    values, document = rows_of(step, step.StepOptions, arguments, capsys, tmp_path / "s.json")
    assert len(document["rows"]) == 14
    assert values["architecture step"] < values["architecture step, second order"]
    assert 0 < values["two batches"] < values["architecture step"]


def test_mobile(capsys, tmp_path):
    size = ["--channels", "4", "--batch-size", "4", "--image-size", "16", "--device", "cpu"]
    values, _ = rows_of(mobile, mobile.MobileOptions, [*size, *QUICK], capsys, tmp_path / "m.json")
    assert set(values) == {"sampled network alone", "weight step", "architecture step"}
    search = mobile.build(mobile.MobileOptions(channels=4, batch_size=4, image_size=64, device="cpu"))
    network, _ = step.alone(search, 0)
    assert network.layout == search.supernet.layout
    assert network.stages[-1].reduction == 16


def test_the_public_step_and_ours_move_the_same_logits():
    """What is timed against each other computes the same gradient."""
    options = step.StepOptions(channels=4, cells=1, batch_size=8)
    ours, dense = step.build(options, "lean"), step.build(options, "dense", public=True)
    batch = step.one_batch(ours)
    for call in range(3):
        ours.bilevel.architecture_step(batch, batch, step.draws(call))
        step.public_architecture_step(dense, batch, call)
        clipped = ours.architecture.logits.grad  # the product clips the logits' gradient to norm 1
        expected = dense.architecture.logits.grad
        torch.testing.assert_close(clipped, expected / expected.norm().clamp_min(1), rtol=1e-3, atol=1e-5)


def test_the_network_alone_computes_what_the_supernet_does():
    options = step.StepOptions(space="darts", channels=4, cells=3, batch_size=4)
    ours = step.build(options, "lean")
    network, optimizer = step.alone(ours, 0)
    assert optimizer.defaults == ours.weight_optimizer.defaults
    chosen = ours.architecture.estimator(ours.architecture.logits.detach(), step.draws(0)).argmax(-1).tolist()
    for mine, its in zip(network.cells, ours.supernet.cells, strict=True):
        mine.preprocess_0.load_state_dict(its.preprocess_0.state_dict())
        mine.preprocess_1.load_state_dict(its.preprocess_1.state_dict())
        for edge, mixed, planned in zip(mine.cell.edges, its.cell.edges, its.cell.plan.edges, strict=True):
            edge.load_state_dict(mixed.operations[chosen[planned.row]].state_dict())
    network.stem.load_state_dict(ours.supernet.stem.state_dict())
    network.classifier.load_state_dict(ours.supernet.classifier.state_dict())
    images, _ = step.one_batch(ours)
    torch.testing.assert_close(network(images), ours.supernet(images, chosen), rtol=1e-4, atol=1e-5)


def test_estimators(capsys, tmp_path):
    arguments = [*QUICK, "--largest", "14"]
    _, document = rows_of(estimators, estimators.EstimatorsOptions, arguments, capsys, tmp_path / "e.json")
    families = [registry.family(name) for name in registry.names()]
    ours = sum(family.signal == "gradient" for family in families)
    assert len(document["rows"]) == 2 * (1 + ours) >= 20  # torch's and ours, for two shapes


@pytest.mark.usefixtures("processor_time")
def test_price(capsys, tmp_path):
    arguments = [*QUICK, "--spaces", "micro", "--memories", "8", "64"]
    values, document = rows_of(price, price.PriceOptions, arguments, capsys, tmp_path / "p.json")
    assert len(values) == 5
    ratios = [row["ratio"] for row in document["rows"]]
    assert ratios[1] > 1.2  # a gradient is not free
    assert ratios[2] > ratios[1] / 2
    assert ratios[3:] == [None, None]


def test_price_of_a_space_that_has_no_size():
    with pytest.raises(InputError, match="unknown search space 'nasnet'"):
        price.run(price.PriceOptions(spaces=("nasnet",)))


def test_final(capsys, tmp_path):
    arguments = ["--channels", "4", "--cells", "3", "--batch-size", "4", *QUICK, "--no-memory"]
    values, _ = rows_of(final, final.FinalStepOptions, arguments, capsys, tmp_path / "f.json")
    assert list(values) == ["NCHW, float32", "channels-last, float32", "channels-last, bfloat16"]


@pytest.mark.usefixtures("processor_time")
def test_data(capsys, tmp_path):
    arguments = [*QUICK, "--images", "512", "--workers", "0"]  # in this process, whose time is taken
    values, _ = rows_of(data, data.DataOptions, arguments, capsys, tmp_path / "d.json")
    assert values["batched"] > 2 * values["DataLoader of torchvision"]


def test_search(capsys, tmp_path, monkeypatch):
    """Without processes of their own, which would import everything anew."""
    costs = []

    def here(function, *arguments):
        start = time.perf_counter()
        function(*arguments)
        costs.append(timing.Cost(time.perf_counter() - start, 2**20 * (len(costs) + 1)))
        return costs[-1]

    monkeypatch.setattr(timing, "in_fresh_process", here)
    arguments = [*QUICK, "--images", "64", "--digits-epochs", "1", "--points", "2", "--factors", "candidates"]
    path = tmp_path / "s.json"
    _, document = rows_of(search, search.WholeSearchOptions, arguments, capsys, path)
    names = ["digits", "random images", "random images, dense", "candidates 2", "candidates 4"]
    assert [row["what"] for row in document["rows"]] == [*names, *(f"peak memory, {n}" for n in names)]
    assert [row["value"] for row in document["rows"][5:]] == [1, 2, 3, 4, 5]
    assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_gpu_logic_on_the_cpu(capsys, tmp_path):
    arguments = ["--device", "cpu", *TOY, *QUICK, "--steps", "2", "--seeds", "1", "--no-compile"]
    path = tmp_path / "g.json"
    values, document = rows_of(gpu, gpu.GpuOptions, [*arguments, "--budget-minutes", "0.02"], capsys, path)
    per_step = values["nasbench201, 250 epochs: both steps"]
    epoch = values["nasbench201, 250 epochs: epoch"]
    assert epoch == pytest.approx(per_step * (25_000 // 4))
    total = 250 * epoch + 50 * values["nasbench201, 250 epochs: evaluation of the cell"]
    assert values["nasbench201, 250 epochs: extrapolated"] == pytest.approx(total / 60)
    assert values["darts, 50 epochs: waits of a weight step"] is None  # only a GPU can be waited for
    assert len(document["profile"]) == 3
    assert all(0 < line["share"] < 1 for lines in document["profile"].values() for line in lines)


def test_what_is_compiled_on_a_gpu(capsys, tmp_path, monkeypatch):
    """The rows that come last, without compiling and without processes of their own."""
    monkeypatch.setattr(gpu, "beside", lambda calls, seconds: [f(*arguments) for f, arguments in calls])
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    monkeypatch.setattr(gpu, "at_once", lambda *_: None)
    monkeypatch.setattr(batched_products, "_compiled", lambda: batched_products.batched_products)
    for name in ("floors", "where"):
        monkeypatch.setattr(gpu, name, lambda *_: None)

    def once(search, seconds):
        subjects.whole_epoch(search, 0)
        yield 1.0

    monkeypatch.setattr(gpu, "epochs", once)
    small = ["--channels", "2", "--cells", "3", "--batch-size", "4", "--steps", "1"]
    arguments = ["--device", "cpu", *small, *QUICK, "--budget-minutes", "100"]
    monkeypatch.setattr(gpu.Budget, "share", lambda self, part: 0.0)
    values, _ = rows_of(gpu, gpu.GpuOptions, arguments, capsys, tmp_path / "g.json")
    for name in ("nasbench201, 250 epochs", "darts, 50 epochs"):
        for how in ("captured", "compiled"):
            assert values[f"{name}, {how}: extrapolated"] > 0
    assert values["DARTS_V2, final training: ours, compiled"] > 0


def pause(seconds):
    time.sleep(seconds)
    return seconds


@pytest.mark.slow
def test_processes_beside_each_other_end_in_time():
    start = time.perf_counter()
    assert gpu.beside([(pause, (300,))], 0.5) == [None]
    assert time.perf_counter() - start < 100
    assert gpu.beside([(pause, (-1,)), (pause, (0.0,))], 120) == [None, 0.0]


def test_a_baseline_is_what_it_claims_to_be():
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Conv2d(3, 4, 3))
    x = torch.ones(2, 2, 8, 8)
    gpu_step.require_arithmetic(network, lambda: network(x), torch.float32, channels_last=False)

    def low():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            network(x)

    gpu_step.require_arithmetic(network, low, torch.bfloat16, channels_last=False)
    for wrong, channels_last in ((low, False), (lambda: network(x), True)):
        with pytest.raises(RuntimeError, match="convolutions compute as"):
            gpu_step.require_arithmetic(network, wrong, torch.float32, channels_last)
    assert all(not module._forward_hooks for module in network.modules())


def test_work_of_a_product_is_counted():
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    with gpu_step.WorkCounter() as work:
        (a @ b).t()
    assert (work.operations, work.bytes) == (2 * 3 * 4 * 5, 4 * (3 * 4 + 4 * 5 + 3 * 5))


def test_alternation(monkeypatch):
    """Actions take turns; short ones are repeated within a round; every call has its number."""
    calls, now = [], [0.0]
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def action(name, seconds):
        def act(call):
            calls.append((name, call))
            now[0] += seconds

        return act

    times = timing.alternate({"slow": action("slow", 0.03), "fast": action("fast", 0.001)}, 3)
    assert [call for name, call in calls if name == "slow"] == [0, 0, 0, 1, 2]
    fast = [call for name, call in calls if name == "fast"][2:]
    assert fast == list(range(len(fast)))
    assert len(fast) == 3 * round(timing.SHORTEST / 0.001)
    assert calls.index(("slow", 1)) > calls.index(("fast", 5))
    assert times == {"slow": pytest.approx([0.03] * 3), "fast": pytest.approx([0.001] * 3)}


def test_ratio_is_the_median_of_the_rounds():
    """A round in which the machine was slow counts as one, whatever its size."""
    times = {"ours": [1.0, 50.0, 1.2], "reference": [2.0, 100.0, 2.0]}
    assert timing.ratio(times, "ours", "reference") == 0.5


def test_memory_of_a_fresh_process():
    size = 150 * 2**20
    small, large = (timing.in_fresh_process(bytearray, n).bytes for n in (0, size))
    assert 0.95 * size < large - small < 1.05 * size
    with pytest.raises(RuntimeError, match="bytearray failed"):
        timing.in_fresh_process(bytearray, -1)


def test_rows_are_on_disk_when_known(tmp_path, capsys):
    path = tmp_path / "r.json"
    report = Report("partial", BenchmarkOptions(json=str(path)))
    report.add(Row("first", 1.0, "s"))
    assert [row["what"] for row in json.loads(path.read_text())["rows"]] == ["first"]
    for arguments, words in (
        (["--repeats", "0"], "--repeats is 0"),
        (["--space", "micro"], "unknown search space 'micro'"),
        (["--json", str(tmp_path / "no" / "r.json")], "cannot write --json"),
    ):
        assert timing.main("step", step.StepOptions, step.run, arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("processor_time")
def test_relative_speed():
    """Generous bounds, so that nobody loses a factor of two unnoticed; a noisy machine has more tries."""
    options = step.StepOptions(channels=16, cells=1, batch_size=16, repeats=5)
    names = (
        "weight step", "sampled network alone", "architecture step", "weight step, dense",
        "architecture step, dense",
    )  # fmt: skip
    actions = {name: action for name, action in step.actions(options).items() if name in names}
    for attempt in range(4):
        times = timing.alternate(actions, options.repeats)
        pair = [a + b for a, b in zip(times["architecture step"], times["weight step"], strict=True)]
        bounds = {
            "weight step": timing.ratio(times, "weight step", "weight step, dense") / 0.3,
            "architecture step": timing.ratio(times, "architecture step", "architecture step, dense") / 0.45,
            "network alone": timing.ratio(times, "weight step", "sampled network alone") / 1.5,
            "bookkeeping": next(step.outside(options, pair)).ratio / 0.05,
        }
        if max(bounds.values()) <= 1 or attempt == 3:
            break
    assert max(bounds.values()) <= 1, bounds


@pytest.mark.parametrize("command", ["train_search.py", "train_final.py", "ablate.py", "ablate.py nas"])
def test_help_comes_at_once(command):
    """Seconds of processor time, which other work on the machine does not add to."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    script, *rest = command.split()
    shown = subprocess.run(
        [sys.executable, str(ROOT / script), *rest, "--help"], capture_output=True, env=run_environment()
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert shown.returncode == 0
    assert b"usage" in shown.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 2.5
