"""What is asked for when several workers train as one, and what one attempt at it comes to."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from advtf.processes import thread_settings
from advtf.storage.identity import Identity
from advtf.storage.run_directory import STARTED_BY
from advtf.training.cluster import LOST
from advtf.training.directory import TrainingDirectory

STRATEGY = "--strategy=multi_worker"
GRACE_SECONDS = 30  # in which the others end by themselves when one has ended
PARTING_SECONDS = 5  # in which all end after a second signal


@dataclass(frozen=True)
class Order:
    """A training by several workers.

    Attributes:
        workers: their number.
        threads: of each of them.
        gpus: of each of them, which a cluster of Ray is asked for.
        max_failures: how often all are started again after one was killed.
        out_dir: the folder of the run, which all of them share.
        flags: of ``advtf.main``.
        cluster: address of the Ray cluster; None for this machine.
    """

    workers: int
    threads: int
    gpus: int
    max_failures: int
    out_dir: Path
    flags: Sequence[str]
    cluster: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variables of every worker, but for what tells it who it is."""
        words = ["python", "-m", "launch.cluster", f"--workers={self.workers}", f"--threads={self.threads}"]
        if self.cluster:
            words += [f"--cluster={self.cluster}", f"--gpus={self.gpus}"]
        return thread_settings(self.threads) | {STARTED_BY: f"{shlex.join(words)} --"}


def continued(given: Sequence[str], run: TrainingDirectory, before: Identity | None) -> list[str]:
    """Returns the flags with which a run that was killed goes on; the same ones if it had not begun.

    Args:
        given: the flags that it was started with.
        run: its directory.
        before: the run that was there before, which `--overwrite` may have been meant for.
    """
    begun = run.identity()
    if begun is None or (before and begun.id == before.id):
        return list(given)
    dropped = ("--overwrite", "-overwrite", "--resume", "-resume")
    kept = [flag for flag in given if flag.partition("=")[0] not in dropped]
    return [*kept, "--resume"]


def outcome(codes: Mapping[int, int], signals: Sequence[int]) -> tuple[int, bool]:
    """Returns the exit code of an attempt, and whether it is to be repeated, as a worker was lost.

    Args:
        codes: worker -> the exit code that it has ended with by itself, below 0 where a signal has killed it.
        signals: those that have stopped the attempt.
    """
    if not codes:
        return 128 + signals[0], False
    first = min(codes.values())
    if first < 0:  # the killed one, before those that it has ended
        return 128 - first, not signals
    failed = [code for code in codes.values() if code not in (0, LOST)]
    if failed:  # such as on a full disk; the others have lost it
        return max(failed), False
    code = max(codes.values())
    return code, code == LOST and not signals


class Voices:
    """Passes on what the workers of one attempt say; an error that several of them tell is told once."""

    def __init__(self):
        self._told = set()

    def out(self, line: str) -> None:
        """Passes on a line of a worker's output."""
        print(line, end="", flush=True)

    def error(self, worker: int, line: str) -> None:
        """Passes on a line of a worker's errors."""
        if line not in self._told:
            self._told.add(line)
            said = line if line.startswith("error:") else f"worker {worker}: {line}"
            print(said, end="", file=sys.stderr, flush=True)


def tell_another(attempt: int, max_failures: int) -> None:
    """Says that all workers are started again."""
    print(f"A worker was lost. Starting all again ({attempt} of {max_failures}).", flush=True)
