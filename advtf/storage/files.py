"""Files and folders that appear whole or not at all, and what result files tell about their making.

A file is written under a hidden sibling name, synced and renamed, so that nobody ever reads half of one.
Importing this module loads neither TensorFlow nor NumPy, so that a wrong flag is answered at once.
"""

import importlib.metadata
import json
import math
import os
import platform
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from advtf import __version__
from advtf.errors import UsageError, disk_full, room_for


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file so that `path` holds either its old content or all of the new one.

    Args:
        path: final name; its folder must exist.
        write: called with a binary file object.

    Raises:
        DiskFull: there is no room for it; `path` holds its old content.
    """
    temporary = path.with_name(f".{path.name}.partial")
    with room_for(path):
        try:
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(path.parent)  # the rename itself must survive a power cut


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


@contextmanager
def renamed_into_place(path: Path) -> Iterator[Path]:
    """Gives a folder to write; on a clean exit it becomes `path`, on an exception it goes away.

    A folder already at `path` is replaced: the caller has checked that it may be. It is renamed aside
    first and put back if the swap fails, so one of the two always exists.

    Raises:
        UsageError: the folder cannot be made there.
        DiskFull: there is no room for what the caller writes into it.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an earlier attempt that was killed
    with room_for(path):
        try:
            partial.mkdir(parents=True)
        except OSError as error:
            if disk_full(error):
                raise
            raise UsageError(
                f"{path.parent} must be a writable folder. Received: {error.strerror}. Choose another."
            ) from error
        try:
            yield partial
            _sync_tree(partial)
            _swap(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Removes a folder so that `path` holds all of it or nothing, also if the process dies meanwhile."""
    previous = _previous(path)
    shutil.rmtree(previous, ignore_errors=True)
    path.rename(previous)
    shutil.rmtree(previous)


def require_writable(folder: Path, setting: str) -> None:
    """Checks that a folder can be written, or can be made, by doing it; what was made is removed again.

    Neither the permission bits nor the names tell: root may do what they forbid, and there are places such
    as ``/proc`` where nobody can make a folder.

    Args:
        folder: the folder; it need not exist, nor the folders above it.
        setting: its name as the user writes it, such as "--out_dir".

    Raises:
        UsageError: it cannot be made or written.
        DiskFull: there is no room for a new file.
    """
    missing = [folder] if not os.path.lexists(folder) else []
    while missing and not os.path.lexists(missing[-1].parent):
        missing.append(missing[-1].parent)
    made = []
    try:
        for path in reversed(missing):
            path.mkdir(exist_ok=True)  # another run may make a folder above at the same time
            made.append(path)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        full = disk_full(error, folder)
        if full:
            raise full from error
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"{setting.lstrip('-')} must be a folder that can be made and written. Received: {folder} "
            f"({reason}). Choose another {setting}."
        ) from error
    finally:
        for path in reversed(made):
            with suppress(OSError):  # another run uses it by now
                path.rmdir()


def _swap(partial: Path, path: Path) -> None:
    previous = _previous(path)
    if path.exists():
        shutil.rmtree(previous, ignore_errors=True)
        path.rename(previous)
    try:
        partial.rename(path)
    except BaseException:
        if previous.exists() and not path.exists():
            previous.rename(path)
        raise
    _sync(path.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _sync_tree(folder: Path) -> None:
    for entry in [*folder.rglob("*"), folder]:
        _sync(entry)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def provenance() -> dict:
    """Returns what a result file records of its making: the versions and the command line."""
    return {"versions": versions(), "command": shlex.join(sys.argv[1:])}


def versions() -> dict:
    """Returns the versions of Python and of the packages that the numbers depend on."""
    packages = ("tensorflow", "keras", "numpy", "tensorflow-datasets")
    own = {"python": platform.python_version(), "advtf": __version__}
    return own | {package: _version(package) for package in packages}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # installed under another name, such as tensorflow-cpu
        return "unknown"


def jsonable(value, key: str):
    """Returns `value` as plain JSON values; non-finite numbers become null, as in the metrics file.

    Args:
        value: JSON values, NumPy's, paths, and mappings and sequences of them.
        key: what an error calls it.

    Raises:
        UsageError: something else is in it.
    """
    import numpy as np  # only results need it, and importing it would double the time of `--help`

    if isinstance(value, Mapping):
        return {str(name): jsonable(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item, key) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return jsonable(value.tolist(), key)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise UsageError(f"metadata and results must be JSON values. Received: {key} of {type(value).__name__}.")
