"""The directory of one run: which one it is, who may write to it, and how an old run in it is removed."""

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from advtf.classifiers import export_folder as exportdir
from advtf.errors import UsageError
from advtf.storage.runfiles import LOCK, OWN_FILES, OWN_FOLDERS, TRAINING, RunDirectory


def choose(
    out_dir: str | None,
    default: str,
    *,
    kind: str = TRAINING,
    resume: bool,
    overwrite: bool,
    taken: Callable[[Path], bool] = lambda path: False,
) -> RunDirectory:
    """Decides where a run goes, without writing anything.

    Args:
        out_dir: the user's choice, or None for `default` with the next free number.
        default: path of the default directory.
        kind: of the run; a directory that holds one of another kind is refused whatever the flags.
        resume: a run must be there; with the default name, the newest unfinished one, else the newest.
        overwrite: a run that is there may be replaced.
        taken: whether a default path is unusable for another reason, such as exports under its name.

    Raises:
        UsageError: the directory holds a run or foreign files and the flags do not say what to do with them.
    """
    if out_dir is None and not overwrite:
        return _newest(Path(default), kind) if resume else _next_free(Path(default), kind, taken)
    run = RunDirectory(Path(out_dir or default), kind)
    state = run.state()
    if state == "other":
        article = "a" if run.found() == TRAINING else "an"
        raise UsageError(
            f"out_dir must not hold {article} {run.found()}. Received: {run.path}. Choose another --out_dir."
        )
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


def _next_free(default: Path, kind: str, taken: Callable[[Path], bool]) -> RunDirectory:
    runs = (RunDirectory(path, kind) for path in _numbered(default))
    return next(run for run in runs if run.state() == "new" and not taken(run.path))


def _newest(default: Path, kind: str) -> RunDirectory:
    numbers = re.compile(re.escape(default.name) + r"(?:-(\d+))?")
    found = {}
    for path in default.parent.glob(f"{default.name}*"):
        match = numbers.fullmatch(path.name)
        run = RunDirectory(path, kind)
        if match and run.state() in ("finished", "unfinished"):
            found[int(match[1] or 1)] = run
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
    for name in OWN_FOLDERS[run.kind]:
        if (run.path / name).exists():
            shutil.rmtree(run.path / name)
    for name in OWN_FILES[run.kind]:
        (run.path / name).unlink(missing_ok=True)
