"""The folder a run's exports go to: checked before hours of training, not after."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from advtf.classifiers.manifest import is_export
from advtf.errors import UsageError

DEFAULT = Path("saved_models")


def holds_files(folder: Path) -> bool:
    """Whether there is anything in `folder`.

    Raises:
        UsageError: the folder exists and cannot be listed.
    """
    try:
        return any(folder.iterdir())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UsageError(
            f"export_dir must be a readable directory. Received: {folder} ({error.strerror})."
        ) from error


def choose(export_dir: str | None, run_name: str, *, replace: bool) -> Path:
    """Decides where exports go, without writing anything.

    Args:
        export_dir: the user's choice, or None for ``saved_models/<run_name>``.
        run_name: last part of the run directory.
        replace: whether earlier exports in it may be replaced.

    Raises:
        UsageError: the folder is in use or holds what is not an export.
    """
    folder = Path(export_dir) if export_dir else DEFAULT / run_name
    if holds_files(folder):
        if not replace:
            raise UsageError(
                f"export_dir must be free. Received: {folder}, which holds files. "
                "Choose another --export_dir, or add --overwrite to replace the exports in it."
            )
        foreign = [entry.name for entry in folder.iterdir() if not _is_ours(entry)]
        if foreign:
            raise UsageError(
                f"export_dir must hold nothing but exports. Received: {folder}, which holds {foreign[0]}. "
                "Choose another --export_dir."
            )
    return folder


def create(folder: Path) -> None:
    """Creates the folder.

    Raises:
        UsageError: it cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK | os.X_OK) else "no permission"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise UsageError(
            f"export_dir must be a writable directory. Received: {folder} ({reason}). "
            "Choose another --export_dir."
        )


def remove(paths: Iterable[str]) -> None:
    """Removes the exports at `paths`, and nothing that is not an export."""
    for path in map(Path, paths):
        if is_export(path):
            shutil.rmtree(path)


def _is_ours(entry):
    return entry.name.startswith(".") or is_export(entry)
