"""Exports on disk, without TensorFlow: the manifest beside a SavedModel, the folder that exports go to."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from advtf.errors import UsageError, nearest
from advtf.storage.files import jsonable, versions

FORMAT = "advtf-classifier"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
KINDS = {"classifier": "logits", "ensemble": "log_probabilities"}  # kind of an export -> what it returns
OUTPUTS = ("logits", "probabilities")  # what its user may say that a SavedModel returns
EXPORTS = Path("saved_models")


def describe(name: str, kind: str, shape: tuple, num_classes: int) -> dict:
    """Returns what a SavedModel's signature tells: the entries that every classifier's manifest has.

    Args:
        kind: "classifier", "ensemble", or "foreign" for a SavedModel that came without a manifest.
        shape: (H, W, C).
    """
    return {
        "name": name,
        "kind": kind,
        "output": KINDS.get(kind, "logits"),
        "input": {"shape": list(shape), "range": [0, 1], "dtype": "float32"},
        "num_classes": num_classes,
    }


def make_manifest(name: str, kind: str, shape: tuple, num_classes: int, metadata: Mapping) -> dict:
    """Returns the manifest of an export: format, description, versions, then `metadata`, all JSON-ready.

    Raises:
        UsageError: `metadata` uses one of the manifest's own keys, or holds what JSON cannot.
    """
    own = {"format": FORMAT, "format_version": FORMAT_VERSION} | describe(name, kind, shape, num_classes)
    own["versions"] = versions()
    taken = sorted(own.keys() & metadata.keys())
    if taken:
        raise UsageError(f"metadata must not use the manifest's own keys. Received: {', '.join(taken)}")
    return own | {str(key): jsonable(value, str(key)) for key, value in metadata.items()}


def write_manifest(folder: Path, manifest: dict) -> None:
    """Writes `manifest` into `folder`."""
    text = json.dumps(manifest, indent=2, allow_nan=False, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict | None:
    """Returns the manifest in `folder`; None if there is none, or only one of another program.

    Raises:
        UsageError: the file is damaged, or is of a newer format than this version reads.
    """
    file = folder / MANIFEST
    if not file.exists():
        return None
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} must be readable JSON; export the classifier again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return None
    if manifest.get("format_version") != FORMAT_VERSION:
        received = manifest.get("format_version")
        raise UsageError(
            f"{file} must have format_version={FORMAT_VERSION}. Received: {received}; update advtf"
        )
    missing = {"name", "kind", "output", "input", "num_classes"} - manifest.keys()
    if missing or manifest["kind"] not in KINDS:
        received = f"without {', '.join(sorted(missing))}" if missing else f"kind={manifest['kind']}"
        raise UsageError(
            f"{file} must be a whole manifest. Received: {received}; export the classifier again"
        )
    return manifest


def check_manifest(folder: Path, manifest: dict, actual: dict) -> None:
    """Compares a manifest with `actual`, the description of the SavedModel it lies beside.

    Raises:
        UsageError: they disagree about the input, the output or the number of classes.
    """
    for key in ("input", "output", "num_classes"):
        if manifest[key] != actual[key]:
            raise UsageError(
                f"{folder / MANIFEST} must describe the SavedModel beside it: {key}={actual[key]}. "
                f"Received: {key}={manifest[key]}; export the classifier again"
            )


def is_export(folder: Path) -> bool:
    """Tells whether `folder` is an export of this package, and so may be replaced by another."""
    try:
        return folder.is_dir() and read_manifest(folder) is not None
    except UsageError:
        return False


def require_saved_model(path: str | os.PathLike, name: str = "model") -> None:
    """Checks that there is a SavedModel at a path.

    Args:
        path: its folder.
        name: the name of the setting, for the message.

    Raises:
        UsageError: there is none; the message names those beside it.
    """
    folder = Path(path)
    if any(folder.glob("saved_model.pb*")):
        return
    there = folder if folder.is_dir() else folder.parent
    found = sorted(file.parent.name for file in there.glob("*/saved_model.pb*"))
    neighbours = [neighbour for neighbour in found if not neighbour.startswith(".")]
    listed = f" {there} has {', '.join(neighbours[:8])}." if neighbours else ""
    raise UsageError(
        f"{name} must be the folder of a SavedModel. "
        f"Received: {name}={path}.{listed}{nearest(folder.name, neighbours)}"
    )


def training_settings(model: str) -> dict:
    """Returns the settings that the export at this path was trained with; empty if it does not tell."""
    return (read_manifest(Path(model)) or {}).get("config") or {}


def require_dataset(dataset: str | None, model: str) -> str:
    """Returns `dataset`, or the one the model was trained on.

    Raises:
        UsageError: neither is known.
    """
    dataset = dataset or training_settings(model).get("dataset")
    if dataset is None:
        raise UsageError(
            f"dataset must be given, as {model} does not tell what it was trained on. Received: no --dataset."
        )
    return dataset


def require_classes(model: str, classes: int, dataset: str, expected: int) -> None:
    """Checks that a model distinguishes the classes of the data.

    Raises:
        UsageError: it does not.
    """
    if classes != expected:
        raise UsageError(
            f"model must have the {expected} classes of {dataset}. "
            f"Received: {model} with {classes}. Choose the --dataset it was trained on."
        )


def holds_files(folder: Path) -> bool:
    """Tells whether there is anything in `folder`.

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


def choose_folder(export_dir: str | None, run_name: str, *, replace: bool) -> Path:
    """Decides where exports go, without writing anything.

    Args:
        export_dir: the user's choice, or None for ``saved_models/<run_name>``.
        run_name: last part of the run directory.
        replace: whether earlier exports in it may be replaced.

    Raises:
        UsageError: the folder is in use or holds what is not an export.
    """
    folder = Path(export_dir) if export_dir else EXPORTS / run_name
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


def create_folder(folder: Path) -> None:
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


def remove_exports(paths: Iterable[str]) -> None:
    """Removes the exports at `paths`, and nothing that is not an export."""
    for path in map(Path, paths):
        if is_export(path):
            shutil.rmtree(path)


def _is_ours(entry):
    return entry.name.startswith(".") or is_export(entry)
