"""Runs that are killed with SIGKILL at random moments and must end as if nothing had happened.

`python tests/fault_test.py --search 50 --final 50 --grid 30` kills so often; under pytest there are a few
kills, and with `-m slow` more than a hundred. The killed processes run the real entry points. Those of
searches and final trainings are forked from this one after its imports, which take longer than such a run; a
grid starts its own.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--space", "micro", "--channels", "4", "--train-limit", "160", "--batch-size", "16"]
SMALL += ["--threads", "1", "--checkpoint-steps", "1"]
CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|"
SEARCHES = {
    "reinmax": [*SMALL, "--epochs", "6", "--keep-weights-every", "1"],
    "reinforce": [*SMALL, "--epochs", "6", "--estimator", "reinforce", "--no-tensorboard"],
}
FINALS = {
    "sgd": [*SMALL, "--epochs", "6", "--genotype", CELL],
    "adamw": [
        *SMALL, "--epochs", "6", "--genotype", CELL, "--no-tensorboard", "--optimizer", "adamw",
        "--lr", "0.002", "--mixup", "0.2", "--cutmix", "0.5", "--ema-decay", "0.9",
        "--auto-augment", "rand-m5-n1",
    ],
}  # fmt: skip
GRID = [
    "nas",
    "--methods",
    "reinmax",
    "st",
    "--seeds",
    "1",
    "--measure",
    "0",
    "--jobs",
    "2",
    "--retries",
    "99",
    "--search",
]
GRID += ["--epochs 6 --train-limit 160 --batch-size 16 --checkpoint-steps 1"]
GRIDS = {"grid": GRID}


class Killer:
    """Kills processes at random moments, and counts.

    Args:
        seed: of the moments and the victims.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.kills = self.in_save = self.runs = 0

    def kill_until(self, kills: int, folder: Path, start, check) -> None:
        """Do the same work in new folders over and over, until it was hit `kills` times.

        Args:
            start: starts the work in a folder, or continues it, in a process whose id it returns.
            check: called with the folders of an undisturbed and of a disturbed work that has ended.
        """
        began = time.monotonic()
        whole = folder / "whole"
        assert wait(start(whole)) == 0, log_of(whole).read_text()
        duration = time.monotonic() - began
        end = self.kills + kills
        seen: set[Path] = set()
        while self.kills < end:
            self.runs += 1
            broken = folder / f"broken-{self.runs}"
            process = start(broken)
            began = time.monotonic()
            while self.kills < end and (victims := self.strike(process, self.rng.uniform(0, duration))):
                self.kills += 1
                halves = set(broken.rglob(".*.tmp")) - seen
                self.in_save += bool(halves)
                seen |= halves
                if process in victims:
                    wait(process)
                    process = start(broken)
                    began = time.monotonic()
            assert wait(process) == 0, log_of(broken).read_text()
            duration = min(duration, time.monotonic() - began)  # the machine may have got faster
            check(whole, broken)

    def strike(self, process: int, delay: float) -> list[int]:
        """After `delay` seconds kill a process and all that it has started, or one time in three any single
        one of them; the killed ones, none if the process has ended by itself."""
        end = time.monotonic() + delay
        while time.monotonic() < end:
            if has_ended(process):
                return []
            time.sleep(0.002)
        victims = family(process)
        if self.rng.random() < 1 / 3:
            victims = [self.rng.choice(victims)]
        if has_ended(process):
            return []
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        return victims


def family(process: int) -> list[int]:
    """A process and all that it and those have started, as far as their parents live."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [process]
    for member in found:
        found += sorted(child for child, parent in parents.items() if parent == member)
    return found


def has_ended(process: int) -> bool:
    """Whether a child has ended; it can still be waited for."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def wait(process: int) -> int:
    """The exit code of a process, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def log_of(folder: Path) -> Path:
    """Where the processes that work in a folder write what they say."""
    return folder.with_suffix(".log")


def fork(main, arguments, log: Path) -> int:
    """Start main(arguments) in a process whose output goes to `log`; its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def starter(main, arguments, resumes: bool):
    """A function that starts or continues main(arguments) in a folder; a grid continues by itself."""

    def start(folder: Path) -> int:
        words = [*arguments, "--out", str(folder)]
        if resumes and (folder / "config.json").exists():
            words = ["--resume", "--out", str(folder)]
        return fork(main, words, log_of(folder))

    return start


def same_run(whole: Path, broken: Path) -> None:
    """Assert that two run folders hold the same results to the last bit."""
    weights = [f"weights/epoch-{epoch}.safetensors" for epoch in range(1, 7)]
    for name in ("metrics.jsonl", "genotype.json", "splits.json", "model.safetensors", *weights):
        assert (whole / name).exists() == (broken / name).exists()
        if (whole / name).exists():
            assert (whole / name).read_bytes() == (broken / name).read_bytes(), f"{broken / name} differs"
    import torch

    from nas.runs import checkpoint

    states = [checkpoint.read(f / checkpoint.NEWEST)["state"] for f in (whole, broken)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


def same_grid(whole: Path, broken: Path) -> None:
    """Assert that two grids hold the same results to the last bit, but for times and folders."""
    runs = sorted(p.name for p in (whole / "runs").iterdir() if p.is_dir())
    assert runs == sorted(p.name for p in (broken / "runs").iterdir() if p.is_dir())
    for run in runs:
        same_run(whole / "runs" / run, broken / "runs" / run)
    assert (whole / "curves.csv").read_bytes() == (broken / "curves.csv").read_bytes()


def main(argv=None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for kind in ("search", "final", "grid"):
        parser.add_argument(f"--{kind}", type=int, default=0, help=f"kills of a {kind}")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(argv)
    sys.path.insert(0, str(ROOT))
    import sklearn.datasets  # noqa: F401

    import ablate
    import train_final
    import train_search

    killer = Killer(options.seed)
    plans = [
        (options.search, train_search.main, SEARCHES, same_run),
        (options.final, train_final.main, FINALS, same_run),
        (options.grid, ablate.main, GRIDS, same_grid),
    ]
    with tempfile.TemporaryDirectory() as name:
        for kills, entry, cases, check in plans:
            for i, (case, arguments) in enumerate(cases.items()):
                share = kills // len(cases) + (i < kills % len(cases))
                if share == 0:
                    continue
                folder = Path(name) / case
                folder.mkdir()
                before = killer.kills, killer.in_save, killer.runs, time.monotonic()
                killer.kill_until(share, folder, starter(entry, arguments, check is same_run), check)
                after = killer.kills, killer.in_save, killer.runs, time.monotonic()
                found = [b - a for a, b in zip(before, after, strict=True)]
                print(
                    "{:10} {:3} kills, {:2} while a file was written; {:2} runs, {:.0f} s".format(
                        case, *found
                    )
                )
    print(
        f"{killer.kills} kills, {killer.in_save} while a file was written; {killer.runs} runs, all identical"
    )
    return 0


def run_script(*arguments: str) -> str:
    """Run this file in a process that nothing has been computed in."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_few_kills():
    assert run_script("--search", "4", "--final", "4", "--seed", "1").endswith("all identical\n")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_more_than_a_hundred_kills():
    assert run_script("--search", "50", "--final", "50", "--grid", "30").endswith("all identical\n")


if __name__ == "__main__":
    sys.exit(main())
