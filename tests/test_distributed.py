"""Runs of several processes: they find what one finds, agree, and survive the loss of one of them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run_environment
from small import slow_in

import nas
from nas.data import Augmentation, Batches, Delivery, Images
from recipes import InputError

SMALL = ["--channels", "4", "--train-limit", "160", "--batch-size", "16", "--no-tensorboard"]
SEARCH = ["train_search.py", *SMALL, "--space", "micro", "--warmup-epochs", "1"]
FINAL = ["train_final.py", *SMALL, "--genotype", "|skip_connect~0|+|nor_conv_3x3~0|nor_conv_3x3~1|",
         "--space", "micro"]  # fmt: skip


def ranks(check):
    """Do tests/ranks.py with two ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(2):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        environment = run_environment() | place | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, "-W", "error", str(ROOT / "tests" / "ranks.py"), check, str(rank)]
        processes.append(
            subprocess.Popen(
                command, env=environment, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True
            )
        )
    said = [process.communicate(timeout=280)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)


@pytest.mark.parametrize("check", slow_in(["operations", "equal_runs", "own_draws"], "equal_runs"))
def test_ranks(check):
    ranks(check)


def delivery():
    return Delivery(torch.device("cpu"), [0.5], [0.25])


@pytest.mark.parametrize("policy", [None, lambda image: image.rotate(torch.randint(360, ()).item())])
def test_slices_of_a_batch_are_the_batch(policy):
    images = Images(torch.randint(0, 256, (50, 1, 9, 8), dtype=torch.uint8), torch.arange(50))
    augmentation = Augmentation(crop_padding=2, flip=True, cutout=3, policy=policy)
    whole = list(Batches(images, 12, delivery(), augmentation, 5).epoch(3, 1))
    parts = [list(Batches(images, 12, delivery(), augmentation, 5, (r, 3)).epoch(3, 1)) for r in range(3)]
    assert len(whole) == 3
    for i, (x, y) in enumerate(whole):
        assert torch.equal(x, torch.cat([part[i][0] for part in parts]))
        assert torch.equal(y, torch.cat([part[i][1] for part in parts]))


def test_evaluation_is_shared_by_whole_batches():
    images = Images(torch.zeros(1000, 1, 2, 2, dtype=torch.uint8), torch.arange(1000))
    batches = Batches(images, 64, delivery())
    whole = [labels.tolist() for _, labels in batches]
    assert len(whole) == 4
    parts = [[labels.tolist() for _, labels in batches.evaluation(r, 3)] for r in range(3)]
    assert parts == [[whole[0], whole[3]], [whole[1]], [whole[2]]]


@pytest.mark.parametrize("size", [15, 2])
def test_a_batch_that_ranks_cannot_share_is_refused(size):
    images = Images(torch.zeros(50, 1, 2, 2, dtype=torch.uint8), torch.zeros(50))
    with pytest.raises(InputError, match=f"`batch_size` is {size}, expected a multiple of the 2 ranks"):
        Batches(images, size, delivery(), Augmentation(), 0, (0, 2))


# torchrun


@pytest.fixture
def torchrun():
    """A function that starts a job of two processes; what still runs in the end is stopped."""
    started = []

    def start(arguments, *options):
        started.append(start_torchrun(arguments, *options))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.communicate()


def start_torchrun(arguments, *options):
    program = str(Path(sys.executable).with_name("torchrun"))
    command = [program, "--standalone", "--nproc-per-node", "2", *options, str(ROOT / arguments[0])]
    return subprocess.Popen(
        [*command, *arguments[1:]],
        env=run_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process, code=0):
    out, errors = process.communicate(timeout=250)
    assert (process.returncode == 0) == (code == 0), errors
    return out, errors


def workers(process):
    """Process numbers of the ranks."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = {}
    for child in children:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{child}/environ").read_text().split("\0")
            found |= {int(w[5:]): int(child) for w in words if w.startswith("RANK=")}
    return found


def wait_for(condition):
    for _ in range(4000):
        if value := condition():
            return value
        time.sleep(0.03)
    raise TimeoutError


def metrics(folder):
    return (folder / "metrics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(600)  # each starts up to four jobs of two processes
def test_torchrun_finds_what_one_process_finds(torchrun, tmp_path):
    arguments = [*SEARCH, "--epochs", "4", "--sync-batch-norm"]
    out, errors = end(torchrun([*arguments, "--out", str(tmp_path / "two")]))
    assert out.count("report ") == 1
    assert not any(line.startswith(("error", "interrupted", "Traceback")) for line in errors.splitlines())
    alone = [sys.executable, str(ROOT / arguments[0]), *arguments[1:], "--out", str(tmp_path / "one")]
    subprocess.run(alone, env=run_environment(), check=True)
    one, two = ([json.loads(line) for line in metrics(tmp_path / f).splitlines()] for f in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert torch.tensor(a["probabilities"]).sub(torch.tensor(b["probabilities"])).abs().max() < 1e-4
        assert a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-3)
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["ranks"] == 2


@pytest.mark.slow
@pytest.mark.timeout(600)  # each starts up to four jobs of two processes
@pytest.mark.parametrize("arguments", [SEARCH, [*FINAL, "--mixup", "0.2"]])
@pytest.mark.parametrize("victim", [0, 1])
def test_torchrun_restarts_after_the_loss_of_a_worker(arguments, victim, torchrun, tmp_path):
    arguments = [*arguments, "--epochs", "8"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    end(torchrun([*arguments, "--out", str(whole)]))
    process = torchrun([*arguments, "--out", str(broken)], "--max-restarts", "2")
    wait_for((broken / "checkpoint.pt").exists)
    os.kill(workers(process)[victim], signal.SIGKILL)
    end(process)
    assert metrics(broken) == metrics(whole)
    if arguments[0] == "train_final.py":
        one, two = (nas.load(f / "model.safetensors").state_dict() for f in (whole, broken))
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
@pytest.mark.timeout(600)  # each starts up to four jobs of two processes
def test_a_lost_rank_ends_the_job_which_can_be_resumed(torchrun, tmp_path):
    arguments = [*SEARCH, "--epochs", "8"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    end(torchrun([*arguments, "--out", str(whole)]))
    process = torchrun([*arguments, "--out", str(broken)])
    wait_for((broken / "checkpoint.pt").exists)
    os.kill(workers(process)[1], signal.SIGKILL)
    _, errors = end(process, code=1)
    assert (
        "interrupted: another rank of this job has ended; the last checkpoint is kept; go on with: torchrun"
        in errors
    )
    end(torchrun(["train_search.py", "--resume", "--out", str(broken)]))
    assert metrics(broken) == metrics(whole)
    _, errors = end(torchrun([*arguments, "--out", str(broken)], "--max-restarts", "1"), code=1)
    assert (
        errors.count("holds a run already") == 2
    )  # another job: neither its first start nor its second goes on
    assert metrics(broken) == metrics(whole)


@pytest.mark.slow
def test_functions_one_after_the_other_in_one_job(torchrun, tmp_path):
    """A search and a training in one script join the other ranks twice."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, nas\n"
        "small = dict(epochs=1, channels=4, batch_size=16, train_limit=160, threads=1)\n"
        "found = nas.search('micro', 'digits', **small)\n"
        "trained = nas.train(found.genotype, 'digits', **small)\n"
        "line = f'done {len(found.history)} {len(trained.history)} {trained.accuracy}\\n'\n"
        "os.write(1, line.encode())  # in one piece: both ranks write to one pipe\n"
    )
    out, _ = end(torchrun([script]))
    lines = [line for line in out.splitlines() if line.startswith("done 1 1 ")]
    assert len(lines) == 2
    assert lines[0] == lines[1]


@pytest.mark.slow
@pytest.mark.timeout(600)  # each starts up to four jobs of two processes
@pytest.mark.parametrize("whom", ["torchrun", "rank 1"])
def test_a_signal_to_one_stops_all_at_the_same_step(whom, torchrun, tmp_path):
    arguments = [*SEARCH, "--epochs", "8"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    end(torchrun([*arguments, "--out", str(whole)]))
    process = torchrun([*arguments, "--out", str(broken)])
    wait_for((broken / "checkpoint.pt").exists)
    os.kill(process.pid if whom == "torchrun" else workers(process)[1], signal.SIGTERM)
    _, errors = end(process, code=1)
    said = [line for line in errors.splitlines() if line.startswith("interrupted: ")]
    assert len(said) == 1, errors
    assert "go on with: torchrun --nproc-per-node 2 train_search.py --resume" in said[0]
    end(torchrun(["train_search.py", "--resume", "--out", str(broken)]))
    assert metrics(broken) == metrics(whole)


@pytest.mark.slow
@pytest.mark.timeout(600)  # each starts up to four jobs of two processes
def test_bad_input_is_one_line_for_all_ranks(torchrun, tmp_path):
    for words, expected in (
        (["--batch-size", "15"], "--batch-size is 15, expected a multiple of the 2 ranks"),
        (["--estimator", "reinmx"], "unknown estimator 'reinmx'"),
        (["--nonsense"], "nonsense"),
    ):
        _, errors = end(torchrun([*SEARCH, "--epochs", "2", "--out", str(tmp_path / "x"), *words]), code=1)
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, errors
        assert expected in lines[0]
        assert not (tmp_path / "x").exists()
