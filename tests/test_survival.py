"""Runs that are interrupted, damaged, locked, filled up and fed with numbers that are not finite."""

import copy
import itertools
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from conftest import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import ablate
import estimators
import nas
import train_final
import train_search
from nas.bilevel.search import Search
from nas.data import Batches
from nas.guard import KeptBuffers, guarded_step
from nas.runs import checkpoint, loop, run_folder
from nas.runs.files import lock
from nas.runs.interruption import Interruption
from nas.runs.loop import _Timer
from nas.runs.run_folder import RunFolder
from recipes import SearchOptions, command_line

TINY = ["--space", "micro", "--channels", "4", "--train-limit", "160", "--batch-size", "16", "--epochs", "3"]
QUIET = [*TINY, "--no-tensorboard"]
CELL = ["--genotype", "|nor_conv_3x3~0|+|skip_connect~0|avg_pool_3x3~1|"]


def lines(folder, name="metrics.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def stop_in(monkeypatch, job, count, number=signal.SIGTERM):
    """Send this process a signal in the `count`-th step from now on."""
    original, steps = job.epoch, itertools.count(1)

    def epoch(self, *position):
        for _ in original(self, *position):
            if next(steps) == count:
                os.kill(os.getpid(), number)
            yield

    monkeypatch.setattr(job, "epoch", epoch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed search of 3 epochs of 4 steps."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert train_search.main([*QUIET, "--out", str(out)]) == 0
    return out


@pytest.fixture
def stopped(tmp_path, capsys):
    """The same search, stopped in its second epoch after step 2, with checkpoints there and a step before."""
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_in(patch, Search, 6)
        assert train_search.main([*QUIET, "--checkpoint-steps", "1", "--out", str(out)]) == 75
    capsys.readouterr()
    return out


def resume(folder):
    return train_search.main(["--resume", "--out", str(folder)])


def assert_same(folder, whole):
    for name in ("metrics.jsonl", "genotype.json", "splits.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    states = [checkpoint.read(f / checkpoint.NEWEST)["state"] for f in (folder, whole)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_says_how_to_go_on(number, whole, tmp_path, monkeypatch, capsys):
    out = tmp_path / "a run"
    stop_in(monkeypatch, Search, 3, number)
    assert train_search.main([*QUIET, "--out", str(out)]) == command_line.RESUME_ME == 75
    told = capsys.readouterr().err.strip()
    assert "\n" not in told
    assert told.startswith(
        "interrupted: saved in epoch 1 after step 3; go on with: train_search --resume --out"
    )
    assert f"'{out}'" in told  # quoted for a shell
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # as it was
    assert resume(out) == 0
    assert_same(out, whole)


def test_a_signal_in_an_evaluation_saves_after_the_epoch(whole, tmp_path, monkeypatch, capsys):
    original = Search.describe

    def describe(self, epoch):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, epoch)

    monkeypatch.setattr(Search, "describe", describe)
    out = tmp_path / "run"
    arguments = [*QUIET, "--checkpoint-every", "3", "--out", str(out)]
    assert train_search.main(arguments) == 75
    assert "saved after epoch 1" in capsys.readouterr().err
    assert resume(out) == 75
    monkeypatch.undo()
    assert resume(out) == 0
    assert_same(out, whole)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_second_signal_ends_the_process_at_once_unless_it_is_passed_on(second):
    program = (
        "import os, signal, sys; from nas.runs.interruption import Interruption\nwith Interruption() as "
        "interruption:\n    os.kill(os.getpid(), signal.SIGTERM); assert interruption.asked\n    "
        f"os.kill(os.getpid(), {int(second)})\nsys.exit(7)"
    )
    # Without nas/__init__.py and torch, which take seconds.
    program = program.replace(
        "from nas.runs.interruption", f"sys.path.insert(0, {str(ROOT / 'nas' / 'runs')!r}); from interruption"
    )
    code = subprocess.run([sys.executable, "-c", program]).returncode
    assert code == (7 if second == signal.SIGUSR1 else -second)


def test_only_the_main_thread_listens():
    entered = []
    thread = threading.Thread(target=lambda: entered.append(Interruption().__enter__()))
    thread.start()
    thread.join()
    assert not entered[0].asked


def test_an_interruption_can_end_the_block_once():
    before, interruption = signal.getsignal(signal.SIGUSR1), Interruption(raises=True)

    def interrupted():
        with interruption:
            try:
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(5)
            finally:  # while the block cleans up, the request comes again
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(0.01)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - began < 4
    assert interruption.asked
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_grid_passes_a_signal_on_and_goes_on(tmp_path, capsys):
    out = tmp_path / "grid"
    search = "--epochs 400 --train-limit 80 --batch-size 16 --evaluate-every 400"
    words = ["nas", "--methods", "st", "--seeds", "2", "--jobs", "1", "--measure", "0", "--search", search]

    def ask():
        first = out / "runs" / "st-s0" / "metrics.jsonl"
        while not (first.exists() and first.read_text().count("\n") > 2):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    assert ablate.main([*words, "--out", str(out)]) == 75
    assert "the same command goes on" in capsys.readouterr().err
    saved = checkpoint.read(out / "runs" / "st-s0" / checkpoint.NEWEST)
    assert 2 < saved["epoch"] < 400
    assert not (out / "runs" / "st-s1").exists()


# Checkpoints


def test_checkpoints_are_due_after_steps_or_minutes(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    timer = _Timer(SearchOptions(checkpoint_steps=4, checkpoint_minutes=0))
    assert [step for step in range(1, 13) if timer.is_due(step)] == [4, 8, 12]
    now[0] += 1e6
    assert not timer.is_due(3)
    timer = _Timer(SearchOptions(checkpoint_steps=0, checkpoint_minutes=2))
    now[0] += 119
    assert not timer.is_due(1)
    now[0] += 1
    assert timer.is_due(1)
    timer.restart()
    assert not timer.is_due(1)


def test_how_often_to_save_may_change_on_resume(stopped, whole):
    words = ["--checkpoint-steps", "0", "--checkpoint-minutes", "3", "--checkpoint-every", "2"]
    assert train_search.main(["--resume", "--out", str(stopped), *words]) == 0
    assert_same(stopped, whole)


def damage(path, how):
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "truncated":
        path.write_bytes(content[:middle])
    elif how == "short of a byte":
        path.write_bytes(content[:-1])
    elif how == "flipped":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif how == "version":
        path.write_bytes(content.replace(b'{"format": 3,', b'{"format": 4,'))
    elif how == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize("how", ["truncated", "short of a byte", "flipped", "version", "empty"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(how, stopped, whole, capsys):
    damage(stopped / checkpoint.NEWEST, how)
    damaged = (stopped / checkpoint.NEWEST).read_bytes()
    assert resume(stopped) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("note: checkpoint.pt ")
    assert "goes on from the checkpoint before it, epoch 2 step 1" in said[0]
    assert (stopped / checkpoint.DAMAGED).read_bytes() == damaged
    assert_same(stopped, whole)


def test_a_kill_between_the_two_renames_loses_a_step_only(stopped, whole, capsys):
    (stopped / checkpoint.NEWEST).unlink()
    (stopped / ".checkpoint.pt.01234567.tmp").write_bytes(b"half")
    assert resume(stopped) == 0
    assert capsys.readouterr().err == ""
    assert_same(stopped, whole)
    assert not list(stopped.glob(".*"))


def test_nothing_is_touched_when_both_checkpoints_are_damaged(stopped, capsys):
    damage(stopped / checkpoint.NEWEST, "flipped")
    damage(stopped / checkpoint.PREVIOUS, "truncated")
    before = contents(stopped)
    assert resume(stopped) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "checkpoint.pt is damaged (its checksum does not match); checkpoint-previous.pt is damaged" in said
    assert contents(stopped) == before


def test_the_good_checkpoint_outlives_a_kill_after_a_fallback(stopped, whole, monkeypatch):
    """The damaged newest one never takes the place of the previous one."""
    damage(stopped / checkpoint.NEWEST, "flipped")
    good = (stopped / checkpoint.PREVIOUS).read_bytes()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert resume(stopped) == 2
    monkeypatch.undo()
    assert (stopped / checkpoint.PREVIOUS).read_bytes() == good
    assert resume(stopped) == 0
    assert_same(stopped, whole)


def test_lost_lines_of_metrics_are_noticed(stopped, capsys):
    (stopped / "metrics.jsonl").write_text("")
    before = contents(stopped)
    assert resume(stopped) == 2
    assert "metrics.jsonl has lost lines" in capsys.readouterr().err
    assert contents(stopped) == before


def test_elapsed_time_goes_on(stopped):
    content = checkpoint.read(stopped / checkpoint.NEWEST)
    assert content["seconds"] > 0
    checkpoint.save(stopped, content | {"seconds": 1000.0})
    assert resume(stopped) == 0
    timings = lines(stopped, "timings.jsonl")
    assert [line["epoch"] for line in timings] == [1, 2, 3]
    assert 1000 < timings[1]["seconds"] < 1100
    result = json.loads((stopped / "result.json").read_text())
    assert result["total_seconds"] == sum(line["seconds"] for line in timings)


def test_torch_reads_a_checkpoint_and_a_checkpoint_before_the_first_epoch_counts(stopped):
    plain = torch.load(stopped / checkpoint.NEWEST, weights_only=True)
    assert (plain["epoch"], plain["step"]) == (1, 2)
    assert plain["logs"]["metrics.jsonl"] == (stopped / "metrics.jsonl").stat().st_size


def test_tensorboard_has_every_epoch_once(tmp_path, monkeypatch):
    out = tmp_path / "run"
    stop_in(monkeypatch, Search, 7)
    assert train_search.main([*TINY, "--checkpoint-every", "9", "--out", str(out)]) == 75
    monkeypatch.undo()
    original = RunFolder.save_checkpoint

    def save(self, epoch, *rest):
        if epoch == 2:
            raise KeyboardInterrupt  # the events of epoch 2 are written, its checkpoint is not
        original(self, epoch, *rest)

    monkeypatch.setattr(RunFolder, "save_checkpoint", save)
    assert train_search.main(["--resume", "--out", str(out), "--checkpoint-every", "1"]) == 130
    monkeypatch.undo()
    monkeypatch.setattr(loop, "render_report", lambda *arguments: 1 / 0)
    monkeypatch.setattr(loop, "write_json", fail_for(loop.write_json, "result.json"))
    with pytest.raises(ZeroDivisionError):  # everything is in TensorBoard, the result is not written
        resume(out)
    monkeypatch.undo()
    second = int(time.time())  # files of events are read in the order of the second that names them
    while int(time.time()) == second:
        time.sleep(0.05)
    assert resume(out) == 0
    sizes = {"images": 0, "scalars": 0, "tensors": 0}
    read = EventAccumulator(str(out / "tensorboard"), sizes).Reload()
    for tag in ("loss/train", "time/epoch_seconds", "time/skipped_steps"):
        assert [event.step for event in read.Scalars(tag)] == [1, 2, 3]
    assert [event.step for event in read.Scalars("result/total_seconds")] == [4]
    assert [event.step for event in read.Images("probabilities")] == [3]
    assert [event.step for event in read.Images("cell")] == [4]


def fail_for(original, name):
    def write(path, content):
        if path.name == name:
            raise ZeroDivisionError
        original(path, content)

    return write


def test_a_job_of_torchrun_that_is_restarted_goes_on_although_it_was_to_overwrite(tmp_path, monkeypatch):
    """One of the same name that begins anew does not."""
    small = {"space": "micro", "epochs": 4, "channels": 4, "train_limit": 160, "tensorboard": False}
    whole = nas.search(**small)
    given = small | {"out": str(tmp_path / "run"), "overwrite": True}
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    for _ in range(2):  # the second time there is a run to overwrite
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
        assert nas.search(**given, callback=lambda line: line["epoch"] == 3).stopped
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        seen = []
        again = nas.search(**given, callback=lambda line, seen=seen: seen.append(line["epoch"]))
        assert seen == [4]
        assert again.history == whole.history
        assert (tmp_path / "run" / "checkpoint-previous.pt").exists()


# Two processes


def test_a_folder_in_use_is_refused(stopped, tmp_path, capsys):
    with lock(stopped / run_folder.LOCK):
        before = contents(stopped)
        for flags in (["--resume"], ["--overwrite", *QUIET]):
            assert train_search.main([*flags, "--out", str(stopped)]) == 2
            (said,) = capsys.readouterr().err.splitlines()
            assert "in use by another process" in said
        assert contents(stopped) == before
    assert resume(stopped) == 0


def test_a_crash_leaves_no_lock_behind(stopped):
    program = (
        "import fcntl, os, signal, sys; file = open(sys.argv[1], 'ab'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True); signal.pause()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(stopped / run_folder.LOCK)], stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout.readline() == b"locked\n"
        assert resume(stopped) == 2
        holder.kill()
    assert resume(stopped) == 0


def test_of_two_that_start_at_once_one_is_refused(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    original = Search.__init__

    def slow(self, *arguments):
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        assert train_search.main([*QUIET, "--seed", "5", "--out", str(out)]) == 0  # another is faster
        before.update(contents(out))
        original(self, *arguments)

    before = {}
    monkeypatch.setattr(Search, "__init__", slow)
    assert train_search.main([*QUIET, "--out", str(out)]) == 2
    assert "taken by another run" in capsys.readouterr().err
    assert contents(out) == before


def test_a_run_killed_at_its_very_beginning_can_be_started_again(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "lock").write_bytes(b"")
    (out / ".config.json.01234567.tmp").write_text("{")
    assert train_search.main([*QUIET, "--out", str(out)]) == 0
    assert not list(out.glob(".*"))


# A disk that is full


def check_stop_and_go_on(out, whole, capsys, mend):
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: the run in {out} has ended: ")
    assert f"go on with: train_search --resume --out {out}" in said
    assert not list(out.glob(".*"))
    for path in out.glob("checkpoint*.pt"):
        checkpoint.read(path)
    assert not (out / "metrics.jsonl").exists() or all(isinstance(line, dict) for line in lines(out))
    mend()
    assert resume(out) == 0
    assert_same(out, whole)


def test_a_full_disk(whole, tmp_path, capsys, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        assert train_search.main([*QUIET, "--checkpoint-steps", "1", "--out", str(disk / "run")]) == 2

        def mend():
            subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)

        check_stop_and_go_on(disk / "run", whole, capsys, mend)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_that_cannot_grow(whole, tmp_path, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (130_000, before[1]))  # the checkpoint outgrows it
    try:
        assert train_search.main([*QUIET, "--out", str(tmp_path / "run")]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    check_stop_and_go_on(tmp_path / "run", whole, capsys, lambda: None)


def test_a_line_is_written_wholly_or_not_at_all(whole, tmp_path, monkeypatch, capsys):
    """The disk is full when a metrics line is half written."""
    original = run_folder.append

    def append(path, text):
        if text.startswith('{"epoch": 2, "step"'):
            size = path.stat().st_size + len(text) // 2
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            try:
                original(path, text)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
        original(path, text)

    monkeypatch.setattr(run_folder, "append", append)
    assert train_search.main([*QUIET, "--out", str(tmp_path / "run")]) == 2
    assert len(lines(tmp_path / "run")) == 1
    check_stop_and_go_on(tmp_path / "run", whole, capsys, monkeypatch.undo)


def test_tensorboard_on_a_full_disk_is_one_line_too(tmp_path, monkeypatch, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    original = RunFolder.log

    def log(self, metrics, seconds):
        original(self, metrics, seconds)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))

    monkeypatch.setattr(RunFolder, "log", log)
    try:
        assert train_search.main([*TINY, "--out", str(tmp_path / "run")]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (said,) = capsys.readouterr().err.splitlines()
    assert "File too large" in said


# Numbers that are not finite


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.1, nesterov=True),
    "fused sgd": lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.1, nesterov=True, fused=True),
    "fused plain sgd": lambda p: torch.optim.SGD(p, 0.1, fused=True),
    "adam": lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.1),
    "fused adam": lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.1, fused=True),
    "fused adamw": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1, fused=True),
}


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_skipped_step_moves_nothing(name, clip):
    """Good and bad steps mixed, the very first one bad, are the good ones alone."""

    def train(broken):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1))
        optimizer = OPTIMIZERS[name](model.parameters())
        skipped = []
        for step, what in enumerate(broken):
            torch.manual_seed(step if what is None else 0)
            optimizer.zero_grad(set_to_none=True)
            used = model if step % 3 else model[1:]  # not all parameters have a gradient in each step
            loss = used(torch.randn(8, 4)).square().mean()
            loss.backward()
            if what == "loss":
                loss = loss * math.inf
            elif what is not None:
                model[1].weight.grad[0, 0] = what
            skipped.append(bool(guarded_step(optimizer, loss, clip)))
        return skipped, model.state_dict(), optimizer.state_dict()["state"]

    plan = [math.nan, None, None, "loss", None, None, -math.inf, None, None]
    skipped, weights, state = train(plan)
    assert skipped == [what is not None for what in plan]
    good = [step for step, what in enumerate(plan) if what is None]
    assert [step % 3 for step in good] == [1, 2, 1, 2, 1, 2]
    _, same_weights, same_state = train_only(train, plan)
    torch.testing.assert_close(weights, same_weights, rtol=0, atol=0)
    torch.testing.assert_close(state, same_state, rtol=0, atol=0)
    assert all(w.isfinite().all() for w in weights.values())


def train_only(train, plan):
    """`train` without the bad steps: the optimizer is never called in them."""
    with pytest.MonkeyPatch.context() as patch:
        original = guarded_step

        def guarded(optimizer, loss, clip):
            finite = loss.isfinite() and all(
                p.grad is None or p.grad.isfinite().all() for g in optimizer.param_groups for p in g["params"]
            )
            return original(optimizer, loss, clip) if finite else torch.tensor(True)

        patch.setitem(globals(), "guarded_step", guarded)
        return train(plan)


def test_a_good_guarded_step_is_the_step_of_the_optimizer():
    for name in ("sgd", "fused sgd", "adam", "fused adam"):
        torch.manual_seed(0)
        one = nn.Linear(4, 4)
        two = copy.deepcopy(one)
        first, second = OPTIMIZERS[name](one.parameters()), OPTIMIZERS[name](two.parameters())
        for _ in range(3):
            x = torch.randn(8, 4)
            for model, optimizer in ((one, first), (two, second)):
                optimizer.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                if model is one:
                    assert not guarded_step(optimizer, loss, 0.5)
                else:
                    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                    optimizer.step()
        torch.testing.assert_close(one.state_dict(), two.state_dict(), rtol=0, atol=0)


def test_running_statistics_forget_a_skipped_step():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    model(torch.randn(4, 1, 5, 5))
    before = copy.deepcopy(model.state_dict())
    with KeptBuffers(model) as kept:
        model(torch.full((4, 1, 5, 5), math.nan))
        kept.restore(torch.tensor(True))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    with KeptBuffers(model) as kept:
        model(torch.randn(4, 1, 5, 5))
        after = copy.deepcopy(model.state_dict())
        kept.restore(torch.tensor(False))
    torch.testing.assert_close(model.state_dict(), after, rtol=0, atol=0)
    assert int(model[1].num_batches_tracked) == 2


@pytest.mark.parametrize("name", [n for n in estimators.names() if estimators.family(n).signal == "loss"])
def test_estimators_remember_no_loss_that_is_not_finite(name):
    estimator = estimators.get(name)
    logits = torch.zeros(3, 5)
    draws = estimator(logits.expand(4, 3, 5), torch.Generator().manual_seed(0))
    for _ in range(2):
        estimator.gradient(logits, draws, torch.rand(4))
    before = estimator.state()
    assert not estimator.gradient(logits, draws, torch.tensor([1.0, math.nan, 1.0, 1.0])).isfinite().all()
    after = estimator.state()
    assert all(torch.equal(torch.as_tensor(after[key]), torch.as_tensor(before[key])) for key in before)


def spoil(monkeypatch, *batches):
    """Make the images of the named training batches, in the order of their delivery, not a number."""
    original, count = Batches._augmented, itertools.count()

    def augmented(self, *rest):
        x, y = original(self, *rest)
        return (x * math.nan if next(count) in batches else x), y

    monkeypatch.setattr(Batches, "_augmented", augmented)


@pytest.mark.parametrize(
    "words", [["--estimator", "st_gumbel", "--order", "2"], ["--estimator", "reinforce"]]
)
def test_a_search_skips_broken_steps_and_counts_them(words, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    spoil(monkeypatch, 2, 5, 9)  # a weight step of the warm-up; a batch of each kind afterwards
    arguments = [*QUIET, "--warmup-epochs", "1", *words, "--out", str(out)]
    assert train_search.main(arguments) == 0
    counts = [line["skipped_steps"] for line in lines(out)]
    assert counts[0] == 1
    assert counts[1] >= 2
    assert counts[2] == 0
    result = json.loads((out / "result.json").read_text())
    assert result["skipped_steps"] == sum(counts)
    assert "Skipped steps" in (out / "report.html").read_text()
    state = checkpoint.read(out / checkpoint.NEWEST)["state"]
    assert state["logits"].isfinite().all()
    assert all(v.isfinite().all() for v in state["supernet"].values())
    assert all(math.isfinite(line["train_loss"]) for line in lines(out))


@pytest.mark.parametrize("words", [[], ["--optimizer", "lion", "--lr", "0.001", "--ema-decay", "0.9"]])
def test_a_final_training_skips_broken_steps_and_keeps_its_statistics(words, tmp_path, monkeypatch):
    out = tmp_path / "run"
    spoil(monkeypatch, 0, 13)
    assert train_final.main([*QUIET, *CELL, *words, "--out", str(out)]) == 0
    assert [line["skipped_steps"] for line in lines(out)] == [1, 1, 0]
    state = checkpoint.read(out / checkpoint.NEWEST)["state"]
    for part in ("model", *(["ema"] if "--ema-decay" in words else [])):
        assert all(v.isfinite().all() for v in state[part].values())
    tracked = [v for k, v in state["model"].items() if k.endswith("num_batches_tracked")]
    assert {int(v) for v in tracked} == {lines(out)[-1]["step"] - 2}


@pytest.mark.parametrize("kind", ["search", "final"])
def test_too_many_skipped_steps_end_the_run_with_its_last_good_state(kind, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    main = train_search.main if kind == "search" else train_final.main
    arguments = [*QUIET, *(CELL if kind == "final" else []), "--out", str(out)]
    spoil(monkeypatch, *range(11, 100))
    assert main([*arguments, "--max-skipped-steps", "2"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "not finite in 3 steps" in said
    assert "--max-skipped-steps" in said
    state = checkpoint.read(out / checkpoint.NEWEST)["state"]
    weights = state["supernet" if kind == "search" else "model"]
    assert all(v.isfinite().all() for v in weights.values())
    assert not (out / "result.json").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main(["--resume", "--out", str(out), "--max-skipped-steps", "9"]) == 0


def test_an_epoch_without_a_good_step_has_no_mean(tmp_path, monkeypatch):
    spoil(monkeypatch, *range(10))
    out = tmp_path / "run"
    assert train_final.main([*TINY, *CELL, "--out", str(out)]) == 0
    assert lines(out)[0]["train_loss"] is None
    assert lines(out)[1]["train_loss"] is not None


# Deterministic algorithms


@pytest.fixture
def _free_choice():
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


@pytest.mark.usefixtures("_free_choice")
def test_deterministic_algorithms_change_nothing_on_the_cpu(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    out, seen, original = tmp_path / "run", [], Search.skipped

    def skipped(self):
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic))
        return original(self)

    monkeypatch.setattr(Search, "skipped", skipped)
    assert train_search.main([*QUIET, "--deterministic", "--out", str(out)]) == 0
    assert set(seen) == {(True, True)}
    assert not torch.are_deterministic_algorithms_enabled()  # only while the run lasts
    assert_same(out, whole)


def test_options_are_checked(capsys):
    for words in (
        ["--max-skipped-steps", "-1"], ["--checkpoint-steps", "-1"], ["--checkpoint-minutes", "-0.1"],
        ["--checkpoint-minutes", "nan"],
    ):  # fmt: skip
        assert train_search.main([*QUIET, *words]) == 2
        assert "expected a number of at least 0" in capsys.readouterr().err
