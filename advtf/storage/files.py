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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from advtf.errors import UsageError


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file so that `path` holds either its old content or all of the new one.

    Args:
        path: final name; its folder must exist.
        write: called with a binary file object.
    """
    temporary = path.with_name(f".{path.name}.partial")
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
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an earlier attempt that was killed
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{path.parent} must be a writable folder. Received: {error.strerror}") from error
    try:
        yield partial
        _sync_tree(partial)
        _swap(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap(partial: Path, path: Path) -> None:
    previous = path.with_name(f".{path.name}.previous")
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
    packages = ("advtf", "tensorflow", "keras", "numpy", "tensorflow-datasets")
    return {"python": platform.python_version()} | {package: _version(package) for package in packages}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree, or under another name
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
