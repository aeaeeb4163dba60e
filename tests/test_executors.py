"""Where the runs of a grid are done: killed and preempted runs go on and end as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, run_environment

from ablation import executors, grid
from ablation.executors import Run, execute, finish
from recipes import InputError, SearchOptions
from recipes.ablation import GridOptions

TOY = "--epochs 8 --train-limit 400 --batch-size 16 --evaluate-every 2"
GRID = GridOptions(methods=("reinmax", "st"), seeds=1, search=TOY, measure=1)


def processes(word):
    """Process numbers of the trainings whose command line holds `word`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if b"train_search" in words and any(word.encode() in w for w in words):
            found.append(int(entry.name))
    return found


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait_for(condition, seconds=120):
    for _ in range(int(seconds * 20)):
        if value := condition():
            return value
        time.sleep(0.05)
    raise TimeoutError


def strike(folder, blow):
    """In the background: once the run has a checkpoint, call `blow` with its process number."""

    def work():
        wait_for((folder / "checkpoint.pt").exists)
        pid = wait_for(lambda: processes(str(folder)))[0]
        struck.append(pid)
        blow(pid)

    struck = []
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return struck


def content(folder):
    """All that the searches of a grid have found and measured, byte for byte."""
    names = ("metrics.jsonl", "genotype.json")
    return {run.name: [(run / name).read_bytes() for name in names] for run in run_folders(folder)}


def run_folders(folder):
    return sorted(path for path in (folder / "runs").iterdir() if path.is_dir())


def was_resumed(folder):
    return "--resume" in json.loads((folder / "environment.json").read_text())["command"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "grid"
    grid.run(replace(GRID, out=str(folder)))
    return content(folder)


# One run


def scripted(monkeypatch, tmp_path, codes):
    """A run whose processes end with `codes`, one after the other."""
    journal = tmp_path / "journal"
    script = (
        f"import os, sys; codes = {codes}; journal = {str(journal)!r}; open(journal, 'a').write('x');"
        "code = codes[os.path.getsize(journal) - 1]; print(f'says {code}', file=sys.stderr, flush=True);"
        "os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)"
    )
    monkeypatch.setattr(Run, "command", lambda self: [sys.executable, "-c", script])
    return Run("train_search", SearchOptions(out="a-run")), lambda: len(journal.read_text())


@pytest.mark.parametrize(
    ("codes", "retries", "starts", "answer"),
    [
        ([0], 3, 1, None),
        ([-9, 75, -15, 0], 3, 4, None),
        ([75, 75], 1, 2, "the run a-run failed (75): says 75"),
        ([2, 0], 3, 1, "the run a-run failed (2): says 2"),
    ],
)
def test_a_run_is_started_again_after_a_kill_and_where_it_asks(
    codes, retries, starts, answer, monkeypatch, tmp_path
):
    run, count = scripted(monkeypatch, tmp_path, codes)
    assert finish(run, retries) == answer
    assert count() == starts


def test_a_grid_finishes_the_others_when_one_fails(monkeypatch, tmp_path):
    run, count = scripted(monkeypatch, tmp_path, [2, 0, 0])
    answers = list(execute([run] * 3, replace(GRID, jobs=1)))
    assert answers == ["the run a-run failed (2): says 2", None, None]
    assert count() == 3


def test_closing_the_executor_stops_what_runs_and_starts_nothing_else(monkeypatch, tmp_path):
    script = f"import time; open({str(tmp_path / 'journal')!r}, 'a').write('x'); time.sleep(60)"
    commands = iter([["true"], *[[sys.executable, "-c", script]] * 9])
    monkeypatch.setattr(Run, "command", lambda self: next(commands))
    started = time.monotonic()
    runs = [Run("train_search", SearchOptions(out=f"run-{i}")) for i in range(9)]
    ends = execute(runs, replace(GRID, jobs=2))
    assert next(ends) is None
    wait_for(lambda: (tmp_path / "journal").exists() and (tmp_path / "journal").stat().st_size == 2)
    ends.close()
    assert time.monotonic() - started < 30
    assert (tmp_path / "journal").read_text() == "xx"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems let children outlive a killed parent")
def test_children_do_not_outlive_a_killed_parent(tmp_path):
    code = "from ablation.executors import Children; Children().run(['sleep', '77.25'], '.')"
    starter = subprocess.Popen([sys.executable, "-c", code], env=run_environment())

    def sleeper():
        children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children").read_text().split()
        return [c for c in children if b"77.25" in Path(f"/proc/{c}/cmdline").read_bytes()]

    (child,) = wait_for(sleeper)
    starter.kill()
    starter.wait()
    wait_for(lambda: not Path(f"/proc/{child}/cmdline").exists() or not read_bytes(f"/proc/{child}/cmdline"))


def read_bytes(path):
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


# Bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"address": "auto"}, "--address is for --executor ray, not local"),
        ({"partition": "gpu", "executor": "ray"}, "--partition is for --executor slurm, not ray"),
        ({"gpus_per_run": 0.5}, "--gpus-per-run is for --executor ray or slurm, not local"),
    ],
)
def test_options_of_another_executor_are_refused(changes, words, tmp_path):
    with pytest.raises(InputError, match=words):
        grid.run(replace(GRID, **changes, out=str(tmp_path / "grid")))
    assert not (tmp_path / "grid").exists()


@pytest.mark.parametrize(("executor", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_package_is_named(executor, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"needs the package {package}.*reinmax-nas\[{executor}\]"):
        grid.run(replace(GRID, executor=executor, out=str(tmp_path / "grid")))


def test_jobs_that_slurm_refuses_end_in_one_line(tmp_path, monkeypatch):
    class RefusedError(Exception):
        pass

    def refuse(jobs):
        raise RefusedError("sbatch: error: invalid partition specified: nowhere")

    executor = SimpleNamespace(update_parameters=lambda **_: None, submit_array=refuse)
    core = SimpleNamespace(utils=SimpleNamespace(UncompletedJobError=RefusedError))
    package = SimpleNamespace(AutoExecutor=lambda *_, **__: executor, core=core)
    monkeypatch.setattr(executors, "_import", lambda _: package)
    with pytest.raises(InputError, match=r"Slurm refuses the jobs \(sbatch: .*nowhere\): check --partition"):
        grid.run(replace(GRID, executor="slurm", partition="nowhere", out=str(tmp_path / "grid")))


def test_a_folder_that_a_node_does_not_have_is_named(tmp_path):
    answer = finish(Run("train_search", SearchOptions(out="x"), cwd=str(tmp_path / "gone")), 3)
    assert "a cluster needs a file system shared by all" in answer


# Whole grids


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_grid_leaves_no_process_and_goes_on(stop, undisturbed, tmp_path):
    folder = tmp_path / "grid"
    command = nas_command(folder, "--jobs", "2")
    process = subprocess.Popen(command, env=run_environment(), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(folder.glob("runs/*/checkpoint.pt")))
    process.send_signal(stop)
    errors = process.communicate(timeout=90)[1]
    assert process.returncode == (-9 if stop == signal.SIGKILL else 75), errors
    wait_for(lambda: not processes(str(folder)), 10)
    assert len(list(folder.glob("runs/*/result.json"))) < 2
    subprocess.run(command, env=run_environment(), check=True)
    assert content(folder) == undisturbed


def nas_command(folder, *more):
    return [
        sys.executable, str(ROOT / "ablate.py"), "nas", "--methods", *GRID.methods, "--seeds", "1",
        f"--search={TOY}", "--measure", "1", "--out", str(folder), *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_ray_gives_the_run_of_a_lost_worker_to_another(undisturbed, tmp_path):
    pytest.importorskip("ray", reason="needs ray, which the extra [ray] installs")
    folder = tmp_path / "grid"
    worker = strike(folder / "runs" / "reinmax-s0", lambda pid: os.kill(parent(pid), signal.SIGKILL))
    training = strike(folder / "runs" / "st-s0", lambda pid: os.kill(pid, signal.SIGKILL))
    subprocess.run(nas_command(folder, "--executor", "ray"), env=run_environment(), check=True)
    assert len(worker) == len(training) == 1
    assert content(folder) == undisturbed
    assert all(was_resumed(folder / "runs" / name) for name in undisturbed)


@pytest.mark.slow
def test_ray_takes_the_runs_of_an_interrupted_grid_back(tmp_path):
    pytest.importorskip("ray", reason="needs ray, which the extra [ray] installs")
    folder = tmp_path / "grid"
    process = subprocess.Popen(nas_command(folder, "--executor", "ray"), env=run_environment())
    wait_for(lambda: list(folder.glob("runs/*/checkpoint.pt")))
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 75
    wait_for(lambda: not processes(str(folder)), 10)


def visible_gpus(pid):
    words = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(word.partition("=")[::2] for word in words if word)["CUDA_VISIBLE_DEVICES"]


@pytest.mark.slow
def test_parts_of_a_gpu_on_a_running_cluster(undisturbed, tmp_path):
    pytest.importorskip("ray", reason="needs ray, which the extra [ray] installs")
    ray = str(Path(sys.executable).with_name("ray"))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}
    environment = run_environment() | token | {"RAY_USAGE_STATS_ENABLED": "0"}
    start = [ray, "start", "--head", "--port", "6399", "--num-cpus", "2", "--num-gpus", "1",
             "--include-dashboard", "false", "--block"]  # fmt: skip
    cluster = subprocess.Popen(start, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        folder = tmp_path / "grid"
        options = ("--executor", "ray", "--address", "127.0.0.1:6399", "--gpus-per-run", "0.5")
        given = {}
        for name in undisturbed:
            strike(folder / "runs" / name, lambda pid, name=name: given.update({name: visible_gpus(pid)}))
        subprocess.run(nas_command(folder, *options), env=environment, check=True)
        assert content(folder) == undisturbed
        assert given == dict.fromkeys(undisturbed, "0")  # both have a half of the same one
    finally:
        cluster.terminate()
        cluster.wait(60)


@pytest.mark.slow
def test_slurm_puts_a_preempted_run_into_the_queue_again(undisturbed, tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="needs submitit, which the extra [slurm] installs")
    monkeypatch.setattr(executors, "_slurm", partial(executors._slurm, cluster="local"))
    folder = tmp_path / "grid"
    preempted = strike(folder / "runs" / "reinmax-s0", lambda pid: os.kill(parent(pid), signal.SIGUSR2))
    grid.run(replace(GRID, executor="slurm", time=10, out=str(folder)))
    assert len(preempted) == 1
    assert content(folder) == undisturbed
    assert was_resumed(folder / "runs" / "reinmax-s0")
    assert not was_resumed(folder / "runs" / "st-s0")
