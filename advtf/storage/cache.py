"""Results of finished work on disk, so that an evaluation or a study that was killed continues from there."""

import contextlib
import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from advtf.errors import UsageError, disk_full
from advtf.storage.files import write_atomically, write_json

IDENTITY = "identity.json"
CLAIMS = ".claims"  # locked bytes of it tell which results are being computed
MARK = "is_cached"  # an array of every file that a cache writes; other files are left alone
SCHEME = "2:"  # begins a fingerprint; the first version's have no beginning, and knew no types and shapes


def fingerprint(*parts: object) -> str:
    """Returns a digest of the parts: of arrays by type, shape and bytes, of other things by their JSON."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(array_header(part.dtype, part.shape) + part.tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True).encode() + b"\n")
    return SCHEME + digest.hexdigest()


def array_header(dtype: object, shape: tuple[int, ...]) -> bytes:
    """Returns what a digest of an array begins with, such as ``<f4 (1000, 32, 32, 3) ``."""
    return f"{np.dtype(dtype).str} {tuple(shape)} ".encode()


def is_earlier(identity: object) -> bool:
    """Tells whether a stored fingerprint was made by the first version."""
    return isinstance(identity, str) and re.fullmatch("[0-9a-f]{64}", identity) is not None


def earlier_fingerprint(*arrays: np.ndarray) -> str:
    """Returns the fingerprint of arrays as the first version made it, of their bytes alone."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


class ResultCache:
    """Named results in a folder; without a folder it keeps nothing.

    Args:
        folder: the folder, which is made if it is missing; None keeps nothing.
        identity: the `fingerprint` of the classifier, the images and the settings. Results under another
            identity are refused; those of the first version, which cannot be compared, are dropped.

    Raises:
        UsageError: the folder holds results of another identity, or cannot be written.
        DiskFull: there is no room in it.
    """

    def __init__(self, folder: Path | None, identity: str):
        self._folder = Path(folder) if folder else None
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not self._matches(identity):
                write_json(self._folder / IDENTITY, {"identity": identity})
        except OSError as error:
            raise disk_full(error, folder) or UsageError(
                f"{folder} must be a writable folder. Received: {error.strerror}. Choose another."
            ) from error

    def _matches(self, identity):
        try:
            stored = json.loads((self._folder / IDENTITY).read_text()).get("identity")
        except FileNotFoundError:
            self._require_empty()
            return False
        except (ValueError, AttributeError):
            stored = None
        if is_earlier(stored):
            self.drop("")
            return False
        if stored != identity:
            raise UsageError(
                f"{self._folder} must hold results of this computation. Received: those of another "
                "classifier, or of other images or settings. "
                "Start afresh with --overwrite or another --out_dir."
            )
        return True

    def _require_empty(self):
        if any(not entry.name.startswith(".") for entry in self._folder.iterdir()):
            raise UsageError(
                f"state_dir must be new, empty or of an earlier attempt. Received: {self._folder}, which "
                "holds other files. Choose another."
            )

    def get(self, name: str) -> dict[str, np.ndarray] | None:
        """Returns the arrays that `put` kept under `name`; None if their file is missing or damaged."""
        if self._folder is None:
            return None
        try:
            with np.load(self._file(name), allow_pickle=False) as file:
                return {key: file[key] for key in file.files if key != MARK}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None

    def changed(self, name: str) -> int | None:
        """Returns when the file of a result was written, in nanoseconds; None if it is missing."""
        try:
            return self._file(name).stat().st_mtime_ns if self._folder else None
        except OSError:
            return None

    def put(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps arrays under `name`; their file is there whole or not at all."""
        if self._folder:
            write_atomically(self._file(name), lambda file: np.savez(file, **arrays, **{MARK: True}))

    def drop(self, prefix: str) -> None:
        """Forgets every name that starts with `prefix`."""
        if self._folder:
            for file in self._folder.glob(f"{prefix}*.npz"):
                file.unlink()

    def _file(self, name):
        return self._folder / f"{name}.npz"


def clear(folder: str | Path | None) -> None:
    """Removes the results of a `ResultCache`, and its folder unless there are other files in it."""
    if folder and (Path(folder) / IDENTITY).exists():
        results = [file for file in Path(folder).glob("*.npz") if _is_marked(file)]
        for file in [
            *results,
            *Path(folder).glob(".*.partial"),
            Path(folder) / CLAIMS,
            Path(folder) / IDENTITY,
        ]:
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            Path(folder).rmdir()


def _is_marked(file):
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return MARK in arrays
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return False
