"""Where the runs of a grid are done: on this machine, on a Ray cluster, or through Slurm.

An executor takes runs and brings each folder to its end with the entry point that a user would call. All
three do it by `finish`, in a process of its own for every run; they differ in where `finish` is called. On
a cluster the run folders, the data and this package are found at the same paths on every node.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from nas.runs.files import Lock, lock, write_json
from recipes import RESUME_ME, InputError, RunOptions, first_line
from recipes.ablation import LOCAL_JOBS, GridOptions
from recipes.config_file import config_json, free

GRACE = 60.0  # seconds that a run has for its last step and its checkpoint when it is asked to stop
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1

# Options that only some executors have a use for.
_ONLY_FOR = {
    "address": ("ray",),
    "cpus_per_run": ("ray", "slurm"),
    "gpus_per_run": ("ray", "slurm"),
    "partition": ("slurm",),
    "time": ("slurm",),
}


@dataclass(frozen=True)
class Run:
    """A run to bring to its end.

    Attributes:
        module: the entry point, train_search or train_final.
        options: of the run; `out` is its folder.
        cwd: folder that relative paths start from.
    """

    module: str
    options: RunOptions
    cwd: str = field(default_factory=os.getcwd)

    @property
    def folder(self) -> Path:
        """Where the run is."""
        return Path(self.cwd, self.options.out or "")

    def command(self) -> list[str]:
        """The command line that starts the run, or continues it where its folder has begun: with its own
        options, and those of now that are free."""
        folder = self.folder
        command = [sys.executable, "-m", self.module, "--out", str(self.options.out)]
        if self.options.plugins:
            command += ["--plugins", *self.options.plugins]
        if (folder / "config.json").exists():
            return [*command, "--resume", *self._free_words()]
        config = folder.with_name(folder.name + ".json")
        config.parent.mkdir(parents=True, exist_ok=True)
        write_json(config, config_json(self.options))
        return [*command, "--config", str(config)]

    def _free_words(self) -> Iterator[str]:
        for name in sorted(free(type(self.options)) - {"out", "plugins", "resume", "overwrite"}):
            value, flag = getattr(self.options, name), name.replace("_", "-")
            yield f"--{'no-' * (value is False)}{flag}" if isinstance(value, bool) else f"--{flag}={value}"


class Children:
    """Processes that can be stopped together. They do not outlive this process, however it ends."""

    def __init__(self) -> None:
        self.stopping = False
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.RLock()  # `stop` may interrupt `run` as a signal handler

    def run(self, command: list[str], cwd: str, claim: Lock | None = None) -> tuple[int, str]:
        """Exit code and standard error of a command, which inherits the file `claim`.

        It is in a session of its own: the signals that a terminal or a scheduler sends to the group of its
        parent do not reach it.
        """
        with self._lock:
            if self.stopping:
                return -signal.SIGTERM, ""
            child = subprocess.Popen(
                command, cwd=cwd, env=_environment(), text=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
                preexec_fn=die_with_parent(os.getpid()), pass_fds=[claim.fileno()] if claim else [],
            )  # fmt: skip
            self._running.add(child)
        while True:
            try:
                errors = child.communicate(timeout=1)[1]  # Ray's interruptions wait for a call to return
                break
            except subprocess.TimeoutExpired:
                continue
        self._running.discard(child)
        return child.returncode, errors

    def stop(self) -> None:
        """Let every process finish its step and save, and start no other."""
        with self._lock:
            self.stopping = True
            running = list(self._running)
        for child in running:
            child.send_signal(signal.SIGUSR1)  # one that was told already is not ended by a second word
        for child in running:
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                child.kill()


def finish(run: Run, retries: int, children: Children | None = None) -> str | None:
    """Start or continue a run, again after it was killed or asks for it, at most `retries` times.

    Returns:
        None at its end, otherwise one line that says why it did not get there.
    """
    children = children or Children()
    if not Path(run.cwd).is_dir():
        return f"{run.cwd} is missing on {os.uname().nodename}: a cluster needs a file system shared by all"
    try:
        for _ in range(retries + 1):
            with _claim(run, children) as claim:
                code, errors = children.run(run.command(), run.cwd, claim)
            if children.stopping or (code >= 0 and code != RESUME_ME):
                break
    except OSError as error:
        return f"the run {run.options.out} cannot be written or locked: {error}"
    except BaseException:  # Ray takes a task back by KeyboardInterrupt
        children.stop()
        raise
    if code == 0:
        return None
    lines = errors.strip().splitlines() or ["it said nothing"]
    return f"the run {run.options.out} failed ({code}): {lines[-1]}"


@contextmanager
def _claim(run: Run, children: Children) -> Iterator[Lock]:
    """The lock of one run, which its process inherits: where that has outlived whoever started it, the next
    one waits here until it has ended."""
    path = run.folder.with_name(run.folder.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            file = lock(path)
            break
        except BlockingIOError:
            if children.stopping:
                raise KeyboardInterrupt from None
            time.sleep(0.2)
    with file:
        yield file


def execute(runs: Sequence[Run], options: GridOptions) -> Generator[str | None]:
    """Do the runs where the options say; yields the answer of `finish` as each ends.

    Closing the iterator stops what still runs. Raises InputError if the place cannot be used.
    """
    for name, executors in _ONLY_FOR.items():
        if getattr(options, name) is not None and options.executor not in executors:
            raise InputError(
                f"--{name.replace('_', '-')} is for --executor {' or '.join(executors)}, not "
                f"{options.executor}: drop it"
            )
    return {"local": _local, "ray": _ray, "slurm": _slurm}[options.executor](runs, options)


def _local(runs: Sequence[Run], options: GridOptions) -> Generator[str | None]:
    children = Children()
    pool = ThreadPoolExecutor(options.jobs or LOCAL_JOBS)
    futures = [pool.submit(finish, run, options.retries, children) for run in runs]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        children.stop()


def _ray(runs: Sequence[Run], options: GridOptions) -> Generator[str | None]:
    """A task of Ray for every run; a task whose worker or node is lost is given to another."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a local cluster reports nothing to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = _import("ray")
    address = options.address or os.environ.get("RAY_ADDRESS") or "local"
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(address, **quiet, **({"include_dashboard": False} if address == "local" else {}))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"no Ray cluster answers at '{address}': {first_line(error)}; check --address, and set "
            "RAY_AUTH_MODE=token where the cluster wants a token"
        ) from None
    cpus, gpus = float(options.cpus_per_run or _threads(runs)), options.gpus_per_run or 0.0
    most = [max((n["Resources"].get(name, 0.0) for n in ray.nodes()), default=0.0) for name in ("CPU", "GPU")]
    if cpus > most[0] or gpus > most[1]:
        print(
            f"note: a run needs {cpus:g} CPUs and {gpus:g} GPUs, no node of the Ray cluster has more than "
            f"{most[0]:g} and {most[1]:g}: waiting for one that has",
            file=sys.stderr,
        )
    # A worker that has done a run is not used for another: what one run leaves behind changes none.
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=options.retries, max_calls=1)(finish)
    waiting = iter(runs)
    pending: dict[Any, Run] = {}
    try:
        while True:
            for run in itertools.islice(waiting, (options.jobs or len(runs)) - len(pending)):
                pending[task.remote(run, options.retries)] = run
            if not pending:
                return
            done = ray.wait(list(pending))[0][0]
            run = pending.pop(done)
            try:
                yield ray.get(done)
            except ray.exceptions.RayError as error:
                yield f"the run {run.options.out} was given up: {first_line(error)}"
    finally:
        for reference in pending:
            ray.cancel(reference)
        if pending:
            ray.wait(list(pending), num_returns=len(pending), timeout=GRACE)
        ray.shutdown()


class _SlurmJob:
    """What a Slurm job does: a run. Slurm warns before it takes the node back or the time is up; then the
    run saves, and the job is put into the queue again."""

    def __init__(self, run: Run, retries: int) -> None:
        self.run, self.retries = run, retries

    def __call__(self) -> str | None:
        self.children = Children()
        return finish(self.run, self.retries, self.children)

    def checkpoint(self) -> Any:
        """Called by submitit in a job that is warned; what to submit in its place."""
        self.children.stop()
        return _import("submitit").helpers.DelayedSubmission(_SlurmJob(self.run, self.retries))


def _slurm(runs: Sequence[Run], options: GridOptions, cluster: str = "slurm") -> Generator[str | None]:
    """A job of an array for every run; scripts and logs go to the folder slurm beside the runs."""
    submitit = _import("submitit")
    gpus = options.gpus_per_run or 0
    if gpus != int(gpus):
        raise InputError(
            f"--gpus-per-run is {gpus:g}: Slurm gives whole GPUs, choose --executor ray for parts"
        )
    try:
        executor = submitit.AutoExecutor(
            Path(options.out or "") / "slurm", cluster, slurm_max_num_timeout=options.retries
        )
    except RuntimeError as error:
        raise InputError(
            f"there is no Slurm here ({first_line(error)}): give --executor local or ray"
        ) from None
    executor.update_parameters(
        name="ablate",
        timeout_min=options.time or 24 * 60,
        cpus_per_task=math.ceil(options.cpus_per_run or _threads(runs)),
        gpus_per_node=int(gpus),
        slurm_partition=options.partition,
        slurm_array_parallelism=options.jobs or len(runs),
        slurm_signal_delay_s=int(GRACE) + 30,
    )
    try:
        jobs = executor.submit_array([_SlurmJob(run, options.retries) for run in runs])
    except (submitit.core.utils.UncompletedJobError, OSError) as error:
        raise InputError(
            f"Slurm refuses the jobs ({first_line(error)}): check --partition, --time, --jobs and "
            "--gpus-per-run"
        ) from None
    try:
        for job in submitit.helpers.as_completed(jobs, poll_frequency=2):
            try:
                yield job.result()
            except submitit.core.utils.UncompletedJobError as error:
                yield f"the Slurm job {job.job_id} was given up: {first_line(error)}"
    finally:
        for job in jobs:
            if not job.done():
                job.cancel(check=False)


def _import(package: str) -> Any:
    """An optional package, imported. Raises InputError where it is missing."""
    try:
        return import_module(package)
    except ImportError:
        extra = {"ray": "ray", "submitit": "slurm"}[package]
        raise InputError(
            f"--executor {extra} needs the package {package}, which is not installed: pip install "
            f"'reinmax-nas[{extra}]'"
        ) from None


def _threads(runs: Sequence[Run]) -> int:
    """CPU threads of one run."""
    return max(run.options.threads or 1 for run in runs)


def _environment() -> dict[str, str]:
    """The entry points are found wherever the grid is started."""
    root = str(Path(__file__).resolve().parent.parent)
    return os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


def die_with_parent(parent: int) -> Callable[[], None] | None:
    """What a new process does to be killed as soon as its parent, of this id, is gone; None but on Linux."""
    libc = _LIBC
    if libc is None:
        return None

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # gone already
            os._exit(1)

    return prepare
