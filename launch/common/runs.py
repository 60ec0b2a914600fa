"""One run among many: a command of `advtf` with a directory of its own, and the log of what it says.

The directory is the state of the run: what is finished there is not repeated, and what was stopped is
continued. The log is locked as long as the process of the run lives, because the process holds it open. So a
run that still works is known from the first moment on, also to a driver that did not start it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from advtf.processes import is_locked
from advtf.storage.run_directory import LOCK, RunDirectory
from advtf.training.directory import TrainingDirectory


@dataclass(frozen=True)
class Run:
    """One command and the directory of its results.

    Attributes:
        path: of the directory.
        flags: of the command, without those that choose or continue the directory.
        kind: of the directory, which tells the command.
        epochs: how many epochs a training has, for its progress; 0 where that is not known.
        after: paths of the runs that must be finished before it starts. Defaults to none.
    """

    path: str
    flags: tuple[str, ...]
    kind: type[RunDirectory] = TrainingDirectory
    epochs: int = 0
    after: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the directory."""
        return Path(self.path).name

    @property
    def files(self) -> RunDirectory:
        """The files of the run, by name."""
        return self.kind(Path(self.path))

    @property
    def export(self) -> str:
        """The classifier of the last epoch that a training exports."""
        return f"saved_models/{self.name}/last"

    @property
    def log(self) -> Path:
        """What the processes of the run have printed, one attempt after another."""
        return Path(self.path).parent / "logs" / f"{self.name}.log"

    def command(self) -> list[str]:
        """Returns the command that brings the run to its end from the state that it is in now."""
        how = ["--resume"] if self.files.state() in ("finished", "unfinished") else []
        command = [sys.executable, "-m", f"advtf.{self.kind.command}", *self.flags]
        return [*command, f"--out_dir={self.path}", *how]

    def finished(self) -> bool:
        """Tells whether the record of the directory says that nothing is left to do."""
        return self.files.state() == "finished"

    def epochs_done(self) -> int:
        """Returns how many epochs a training has recorded."""
        try:
            return (Path(self.path) / "metrics.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0

    def in_use(self) -> bool:
        """Tells whether a process works on the run: one that holds its log, or its directory."""
        return is_locked(self.log) or is_locked(Path(self.path) / LOCK)


def was_killed(code: int) -> bool:
    """Tells whether an exit code is that of a process which a signal ended."""
    return code < 0 or code > 128
