"""What a result file records of its making, and values made fit for JSON."""

import importlib.metadata
import math
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from advtf.errors import UsageError


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
    raise UsageError(f"metadata and results must be JSON values. Received: {key} of {type(value).__name__}")
