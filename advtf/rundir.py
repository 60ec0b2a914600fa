"""The directory of one run: what is in it, who may write to it, and where its files are."""

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from advtf import exportdir
from advtf.errors import UsageError

LOCK = ".lock"
OWN_FILES = ("evaluation.json", "examples.npz", "metrics.jsonl", "config.json")  # the last one marks a run
OWN_FOLDERS = ("checkpoints", "snapshots", "tensorboard", "figures")


@dataclass(frozen=True)
class RunDirectory:
    """Paths of the files a run writes; a contract other tools read."""

    path: Path

    @property
    def config(self) -> Path:
        """Configuration, versions and command (JSON)."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def evaluation(self) -> Path:
        """Final errors and export paths (JSON); written last, so its presence means the run is finished."""
        return self.path / "evaluation.json"

    @property
    def examples(self) -> Path:
        """Clean and adversarial test images with predictions (NPZ)."""
        return self.path / "examples.npz"

    @property
    def checkpoints(self) -> Path:
        """States to resume from."""
        return self.path / "checkpoints"

    @property
    def snapshots(self) -> Path:
        """Classifiers at period ends, best and last."""
        return self.path / "snapshots"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard event files."""
        return self.path / "tensorboard"

    @property
    def figures(self) -> Path:
        """PNG figures drawn from the files above."""
        return self.path / "figures"

    def state(self) -> str:
        """Returns "new" (missing or empty), "finished", "unfinished" or "foreign".

        Raises:
            UsageError: the path cannot be read or is not a directory.
        """
        try:
            names = {entry.name for entry in self.path.iterdir() if not _is_scratch(entry.name)}
        except FileNotFoundError:
            return "new"
        except OSError as error:
            raise UsageError(
                f"out_dir must be a readable directory. Received: {self.path} ({error.strerror})."
            ) from error
        if not names:
            return "new"
        if not self._is_ours():
            return "foreign"
        return "finished" if self.evaluation.name in names else "unfinished"

    def _is_ours(self) -> bool:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return "advtf" in json.loads(self.config.read_text()).get("versions", {})
        return False


def _is_scratch(name):
    return name == LOCK or (name.startswith(".") and name.endswith(".partial"))  # of a write that was killed


def choose(
    out_dir: str | None, default: str, *, resume: bool, overwrite: bool, taken: Callable[[Path], bool]
) -> RunDirectory:
    """Decides where a run goes, without writing anything.

    Args:
        out_dir: the user's choice, or None for `default` with the next free number.
        default: path of the default directory.
        resume: a run must be there; with the default name, the newest unfinished one, else the newest.
        overwrite: a run that is there may be replaced.
        taken: whether a default path is unusable for another reason, such as exports under its name.

    Raises:
        UsageError: the directory holds a run or foreign files and the flags do not say what to do with them.
    """
    if out_dir is None and not overwrite:
        return _newest(Path(default)) if resume else _next_free(Path(default), taken)
    run = RunDirectory(Path(out_dir or default))
    state = run.state()
    if resume:
        if state in ("new", "foreign"):
            raise UsageError(
                f"--resume requires an out_dir with a run of advtf. Received: {run.path} ({state}). "
                "Leave out --resume to start one."
            )
    elif state == "foreign":
        raise UsageError(
            f"out_dir must be empty, new or a run of advtf. Received: {run.path}, which holds other files. "
            "Choose another --out_dir."
        )
    elif state != "new" and not overwrite:
        remedy = "--overwrite to replace it" + (
            " or --resume to continue it" if state == "unfinished" else ""
        )
        raise UsageError(
            f"out_dir must be free. Received: {run.path}, which holds a run ({state}). Add {remedy}."
        )
    return run


def _numbered(default: Path):
    yield default
    number = 2
    while True:
        yield default.with_name(f"{default.name}-{number}")
        number += 1


def _next_free(default: Path, taken: Callable[[Path], bool]) -> RunDirectory:
    runs = map(RunDirectory, _numbered(default))
    return next(run for run in runs if run.state() == "new" and not taken(run.path))


def _newest(default: Path) -> RunDirectory:
    numbers = re.compile(re.escape(default.name) + r"(?:-(\d+))?")
    found = {}
    for path in default.parent.glob(f"{default.name}*"):
        match = numbers.fullmatch(path.name)
        if match and RunDirectory(path).state() in ("finished", "unfinished"):
            found[int(match[1] or 1)] = RunDirectory(path)
    if not found:
        raise UsageError(f"--resume requires a run. Received: none at {default}. Give its --out_dir.")
    unfinished = [number for number, run in found.items() if run.state() == "unfinished"]
    return found[max(unfinished or found)]


@contextlib.contextmanager
def locked(run: RunDirectory, *, resume: bool = False, overwrite: bool = False):
    """Creates the directory, holds it for this process alone, and empties it of an old run if asked.

    Without `resume` and `overwrite` it must be new, also if another process has filled it since `choose`.
    Files the package did not write stay. The lock is the kernel's: it ends with the process.

    Raises:
        UsageError: another process is using or has filled the directory, or it cannot be written.
    """
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        handle = open(run.path / LOCK, "a+")  # noqa: SIM115 - held for the whole context
    except OSError as error:
        raise UsageError(f"out_dir must be writable. Received: {run.path} ({error.strerror}).") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.seek(0)
            raise UsageError(
                f"out_dir must not be in use. Received: {run.path}, used by process {handle.read().strip()}. "
                "Wait for it, or choose another --out_dir."
            ) from error
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        if not (resume or overwrite) and run.state() != "new":
            raise UsageError(
                f"out_dir must be free. Received: {run.path}, filled by another process in the meantime. "
                "Choose another --out_dir."
            )
        if overwrite:
            try:
                _remove_run(run)
            except OSError as error:  # a checkpoint left behind would be continued from
                raise UsageError(
                    f"the run in out_dir must be removable. Received: {run.path} ({error}). "
                    "Remove it by hand, or choose another --out_dir."
                ) from error
        yield run


def _remove_run(run: RunDirectory) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # unfinished: it has exported nothing
        exportdir.remove(json.loads(run.evaluation.read_text()).get("exports", {}).values())
    for name in OWN_FOLDERS:
        if (run.path / name).exists():
            shutil.rmtree(run.path / name)
    for name in OWN_FILES:
        (run.path / name).unlink(missing_ok=True)
