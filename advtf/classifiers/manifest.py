"""Exports on disk, without TensorFlow: the manifest beside a SavedModel, the folder that exports go to."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from advtf.errors import UsageError, first_line, nearest, show_text
from advtf.storage.files import jsonable, remove_folder, require_writable, versions
from advtf.storage.identity import Identity
from advtf.storage.report_files import MODEL_CARD, is_report

FORMAT = "advtf-classifier"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
KINDS = {"classifier": "logits", "ensemble": "log_probabilities"}  # kind of an export -> what it returns
OUTPUTS = ("logits", "probabilities")  # what its user may say that a SavedModel returns
ENTRIES = {"name": str, "kind": str, "output": str, "input": dict, "num_classes": int}  # what all have
MORE = {  # what trainings and conversions add
    **dict.fromkeys(("dataset", "network"), str),
    **dict.fromkeys(("versions", "run", "images", "test"), dict),
    **dict.fromkeys(("converted_from", "settings", "reference_logits"), dict),
    "epoch": int | None,
    "members": list,
}
TRAINING = {  # what is read of the training's settings in the entry "config", where there is one
    **dict.fromkeys(("dataset", "model", "norm", "random_start", "activation"), str),
    **dict.fromkeys(("shortcut", "stride_in", "order"), str | None),
    **dict.fromkeys(("eps", "val_fraction"), int | float),
    "attack_step_size": int | float | str,
    "attack_steps": int,
    **dict.fromkeys(("image_size", "train_examples", "width", "depth"), int | None),
}
EXPORTS = Path("saved_models")
SHOWN_EXPORTS = 8  # in a message
PARTS = re.compile(  # the files of an export
    r"(saved_model|fingerprint)\.pb|manifest\.json|variables/variables\..+|assets/.+"
)


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
        UsageError: `metadata` uses one of the manifest's own keys, holds what JSON cannot, or has an entry
            of another type than `MORE` and `TRAINING` say.
    """
    own = {"format": FORMAT, "format_version": FORMAT_VERSION} | describe(name, kind, shape, num_classes)
    own["versions"] = versions()
    taken = sorted(own.keys() & metadata.keys())
    if taken:
        raise UsageError(f"metadata must not use the manifest's own keys. Received: {', '.join(taken)}")
    manifest = own | {str(key): jsonable(value, str(key)) for key, value in metadata.items()}
    wrong = _wrong(manifest)
    if wrong:
        raise UsageError(
            "metadata must have the types of a manifest's entries, and settings of a training in its "
            f'"config". Received: {wrong}. Choose another name for an entry of your own.'
        )
    return manifest


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
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{file} must be readable JSON. Received: {first_line(error)}; export the classifier again, or "
            "restore the file from a copy"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return None
    if manifest.get("format_version") != FORMAT_VERSION:
        received = manifest.get("format_version")
        raise UsageError(
            f"{file} must have format_version={FORMAT_VERSION}. Received: {received}; update advtf"
        )
    wrong = _wrong(manifest)
    if wrong:
        raise UsageError(
            f"{file} must be a whole manifest. Received: {wrong}; export the classifier again, or "
            "restore the file from a copy"
        )
    return manifest


def _wrong(manifest):
    """Returns what of a manifest is missing or of another type than it is written in; None if all is well."""
    missing = ENTRIES.keys() - manifest.keys()
    if missing:
        return f"without {', '.join(sorted(missing))}"
    training = manifest.get("config")
    config = training if isinstance(training, Mapping) else {}
    for entries, types in ((manifest, ENTRIES | MORE), (config, TRAINING)):
        for name in sorted(types.keys() & entries.keys()):
            value = entries[name]
            huge = isinstance(value, int) and abs(value) >= 2**31
            if not isinstance(value, types[name]) or isinstance(value, bool) or huge:
                return f"{name}={show_text(json.dumps(value))}"
    if manifest["kind"] not in KINDS:
        return f"kind={show_text(manifest['kind'])}"
    shape = manifest["input"].get("shape")
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(side) is int for side in shape):
        return f"input={show_text(json.dumps(manifest['input']))}"
    is_object = training is None or isinstance(training, Mapping)
    return None if is_object else f"config={show_text(json.dumps(training))}"


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
        UsageError: there is none; the message names some that are there.
    """
    folder = Path(path)
    if any(folder.glob("saved_model.pb*")):
        return
    there = folder if folder.is_dir() else folder.parent
    found = _exports_in(there) or _exports_in(EXPORTS)
    names = [path.name for path in found if path.parent == there]
    more = " and others" if len(found) > SHOWN_EXPORTS else ""
    listed = f" SavedModels there: {', '.join(map(str, found[:SHOWN_EXPORTS]))}{more}." if found else ""
    raise UsageError(
        f"{name} must be the folder of a SavedModel. "
        f"Received: {name}={path}.{listed}{nearest(folder.name, names)}"
    )


def _exports_in(folder: Path) -> list[Path]:
    """Returns the SavedModels in a folder, or else in the folders inside it, as those of several runs are;
    the last ones of trainings first."""
    for pattern in ("*/saved_model.pb*", "*/*/saved_model.pb*"):
        paths = {file.parent for file in folder.glob(pattern)}
        found = [path for path in paths if not path.name.startswith(".")]  # unfinished ones
        if found:
            return sorted(found, key=lambda path: (path.name != "last", path))
    return []


def weights_digest(path: str | os.PathLike) -> str:
    """Returns a hexadecimal digest of the graph and the weights of a SavedModel, which a copy of it shares.

    Args:
        path: its folder.
    """
    digest = hashlib.sha256()
    for file in sorted([*Path(path).glob("saved_model.pb"), *Path(path).glob("variables/variables.*")]):
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


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
            f"export_dir must be a readable directory. Received: {folder} ({error.strerror}). "
            "Choose another --export_dir."
        ) from error


def choose_folder(folder: Path, names: Iterable[str], owner: Identity | None, *, replace: bool) -> Path:
    """Decides that the exports of a run go into a folder; what it tries to write it removes again.

    Args:
        folder: for the exports.
        names: of the exports that the run will make.
        owner: the run that is continued or replaced; None if there is none, or if it is older than ids.
        replace: whether the exports that `owner` has made in it may be replaced.

    Returns:
        `folder`.

    Raises:
        UsageError: it is in use or cannot be written, or an export would replace what `owner` has not made.
        DiskFull: there is no room in it.
    """
    if holds_files(folder):
        if not replace:
            raise UsageError(
                f"export_dir must be free. Received: {folder}, which holds files. Choose another "
                "--export_dir; --overwrite replaces only the exports of the run in out_dir."
            )
        for name in names:
            require_own(folder / name, owner)
    require_writable(folder, "--export_dir")
    return folder


def require_replaceable(path: Path, overwrite: bool, name: str = "path") -> None:
    """Checks that a classifier may be exported to a path: it is free, or an earlier export may be replaced.

    Args:
        path: of the export.
        overwrite: whether an earlier export may be replaced; other files never are.
        name: the name of the setting, for the message.

    Raises:
        UsageError: it is not, or the folder above cannot be written.
        DiskFull: there is no room beside it.
    """
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not holds_files(path))):
        if not is_export(path):
            raise UsageError(
                f"{name} must be free or hold an earlier export. Received: {name}={path}. Choose another."
            )
        added = foreign_files(path)
        if added:
            raise UsageError(
                f"an export is replaced with all that it holds. Received: {name}={path}, which holds "
                f"{added[0]} besides. Choose another {name}, or move that away."
            )
        if not overwrite:
            raise UsageError(
                f"{name} must be free. Received: {name}={path}, which holds an export. "
                f"Choose another {name}, or pass overwrite=True (--overwrite)."
            )
    require_writable(path.parent, name)


def require_own(folder: Path, owner: Identity | None) -> None:
    """Checks that an export may be written at a path: nothing is there, or an export of the same run.

    Args:
        folder: where the export goes.
        owner: the run that makes it; None if it has no id yet.

    Raises:
        UsageError: there is something else.
    """
    if os.path.lexists(folder) and not (owner and is_own(folder, owner)):
        raise UsageError(
            f"export_dir must not lose what the run in out_dir has not made. Received: {folder}, "
            f"{_description(folder)}. Choose another --export_dir, or move it away."
        )


def _description(folder):
    try:
        manifest = read_manifest(folder) if folder.is_dir() and not folder.is_symlink() else None
    except UsageError:
        return "whose manifest.json is damaged"
    if manifest is None:
        return "which is not an export"
    if foreign_files(folder):
        return f"which holds {foreign_files(folder)[0]} besides an export"
    run = manifest.get("run")
    way = run.get("directory") if isinstance(run, Mapping) else None
    if manifest["name"] == folder.name and isinstance(way, str):
        return f"an export of the run in {os.path.relpath(Path(os.path.realpath(folder), way))}"
    return "an export of another run, or made before runs had ids"


def is_own(folder: Path, owner: Identity) -> bool:
    """Tells whether `folder` is, with all that it holds, an export that a run has made under this name."""
    return _made_by(folder, owner) and not foreign_files(folder)


def _made_by(folder, owner):
    if folder.is_symlink() or not is_export(folder):
        return False
    manifest = read_manifest(folder)
    return manifest["name"] == folder.name and owner.has_made(folder, manifest.get("run"))


def foreign_files(folder: Path) -> list[str]:
    """Returns the paths, within an export, of files that neither exporting nor `advtf.report` writes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    files = (path for path in files if not (path == folder / MODEL_CARD and is_report(path)))
    return [name for path in files if not PARTS.fullmatch(name := path.relative_to(folder).as_posix())]


def remove_exports(folder: Path, owner: Identity) -> None:
    """Removes the exports in `folder` that a run has made, and nothing else.

    Args:
        folder: of exports; it may be missing.
        owner: the run.
    """
    if folder.is_dir():
        for entry in sorted(folder.iterdir()):
            if is_own(entry, owner):
                remove_folder(entry)
