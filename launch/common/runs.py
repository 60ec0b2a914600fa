"""One run among many: a command of `advtf` with a directory of its own, and the log of what it says.

The directory is the state of the run: what is finished there is not repeated, and what was stopped is
continued. The log is locked as long as the process of the run lives, because the process holds it open. So a
run that still works is known from the first moment on, also to a driver that did not start it.
"""

import ctypes
import fcntl
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from advtf.errors import UsageError
from advtf.storage.run_directory import LOCK, RunDirectory
from advtf.training.directory import TrainingDirectory

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux' prctl
SHOWN_LINES = 8  # of the log of a failed run


@dataclass(frozen=True)
class Run:
    """One command and the directory of its results.

    Attributes:
        path: of the directory.
        flags: of the command, without those that choose or continue the directory.
        kind: of the directory, which tells the command.
        anew: replace what is there instead of continuing it.
        epochs: how many epochs a training has, for its progress; 0 where that is not known.
    """

    path: str
    flags: tuple[str, ...]
    kind: type[RunDirectory] = TrainingDirectory
    anew: bool = False
    epochs: int = 0

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
        if self.anew:
            how = ["--overwrite"]
        else:
            how = ["--resume"] if self.files.state() in ("finished", "unfinished") else []
        command = [sys.executable, "-m", f"advtf.{self.kind.command}", *self.flags]
        return [*command, f"--out_dir={self.path}", *how]

    def finished(self) -> bool:
        """Tells whether the record of the directory says that nothing is left to do."""
        return not self.anew and self.files.state() == "finished"

    def epochs_done(self) -> int:
        """Returns how many epochs a training has recorded."""
        try:
            return (Path(self.path) / "metrics.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0

    def in_use(self) -> bool:
        """Tells whether a process works on the run: one that holds its log, or its directory."""
        return is_locked(self.log) or is_locked(Path(self.path) / LOCK)

    def last_lines(self, count: int = SHOWN_LINES) -> list[str]:
        """Returns the last lines that the run has printed."""
        try:
            with open(self.log, "rb") as file:
                file.seek(max(0, os.path.getsize(self.log) - 16_384))
                text = file.read(16_384).decode(errors="replace")
        except OSError:
            return []
        # A progress bar rewrites its line: what counts is what it looked like at last.
        lines = [line.rstrip().rpartition("\r")[2] for line in text.split("\n")]
        return [line for line in lines if line.strip()][-count:]


def is_locked(path: Path) -> bool:
    """Tells whether another process holds the lock of a file; a file that is not there has none."""
    try:
        with open(path, "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def thread_settings(threads: int) -> dict[str, str]:
    """Returns the environment in which a command computes with this number of threads."""
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


def spawn(command: Sequence[str], log: Path, folder: str, environment: Mapping[str, str]) -> subprocess.Popen:
    """Starts a command whose output goes to a log, which is locked until the process ends.

    The process is the leader of a group of its own, so that Ctrl-C in a terminal reaches the driver alone. It
    gets SIGTERM when the process that has started it dies, and so saves a checkpoint and ends.

    Args:
        command: the command.
        log: the file that its output is appended to.
        folder: its working directory.
        environment: variables beside those of this process.

    Raises:
        UsageError: another process holds the log.
        OSError: the log cannot be written.
    """
    log = Path(folder, log)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"the run must not be in use. Received: {log}, which a process holds."
            ) from error
        handle.write(f"$ {shlex.join(command)}\n".encode())
        handle.flush()
        return subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with(os.getpid()),
        )


def _end_with(parent: int):
    """Returns what makes a new process get SIGTERM when its parent dies; nothing where that cannot be had."""
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):  # not Linux
        return None

    def prepare() -> None:
        prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it has died in the meantime
            os._exit(128 + signal.SIGTERM)

    return prepare


def was_killed(code: int) -> bool:
    """Tells whether an exit code is that of a process which a signal ended."""
    return code < 0 or code > 128
