"""How figures read result files: the arrays or the record, or one line that says which file is required."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path

import numpy as np

from advtf.errors import UsageError


@contextlib.contextmanager
def required(path: str | Path, kind: str, remedy: str = "") -> Iterator[None]:
    """Turns whatever goes wrong in the block into a `UsageError` that names the file.

    Args:
        path: of the file that the block reads and checks.
        kind: what it must be, with an article, such as "a density.npz".
        remedy: what to do about it, a sentence. Defaults to none.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # damage shows as almost any exception of zipfile, zlib, json and NumPy
        reason = f"no {error.args[0]}" if type(error) is KeyError and error.args else error
        advice = f" {remedy}" if remedy else ""
        raise UsageError(f"{kind} is required. Received: {path} ({reason}).{advice}") from error


def read_arrays(path: str | Path, names: Iterable[str], kind: str, remedy: str = "") -> dict[str, np.ndarray]:
    """Returns the arrays `names` of an NPZ file.

    Raises:
        UsageError: it cannot be read, or an array is missing.
    """
    with required(path, kind, remedy), np.load(path, allow_pickle=False) as file:
        missing = [name for name in names if name not in file.files]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
        return {name: file[name] for name in names}


def read_record(path: str | Path, kind: str, remedy: str = "") -> dict:
    """Returns the content of a JSON file, an object.

    Raises:
        UsageError: it cannot be read, or holds no object.
    """
    with required(path, kind, remedy):
        record = json.loads(Path(path).read_text())
        if not isinstance(record, dict):
            raise ValueError("no JSON object")
        return record


def require_some(files: Sized, kind: str) -> None:
    """Checks that there is a file to draw.

    Raises:
        UsageError: there is none.
    """
    if not files:
        raise UsageError(f"the figure needs at least one {kind}. Received: none.")


def curve_labels(label: str, names: Iterable[str]) -> list[str]:
    """Returns a label for each classifier of one file.

    Args:
        label: that of the file; it may be empty.
        names: those of the classifiers in it.

    Returns:
        The label of the file where it has one classifier, else this label and the classifier's name, or the
        name alone where the label is empty.
    """
    names = list(names)
    if label and len(names) == 1:
        return [label]
    return [f"{label}: {name}" if label else name for name in names]
