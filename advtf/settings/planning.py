"""What the commands plan alike: the classifier named, what its training tells, what ``--resume`` may repeat.

No TensorFlow at import, so that a wrong flag is answered at once.
"""

import contextlib
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from advtf.classifiers import manifest
from advtf.errors import UsageError, nearest
from advtf.settings import flags as absl_flags
from advtf.storage.runfiles import RunDirectory
from advtf.training.presets import preset


def require_saved_model(path: str) -> None:
    """Checks that there is a SavedModel.

    Raises:
        UsageError: there is none; the message names those beside it.
    """
    folder = Path(path)
    if any(folder.glob("saved_model.pb*")):
        return
    there = folder if folder.is_dir() else folder.parent
    names = sorted(found.parent.name for found in there.glob("*/saved_model.pb*"))
    listed = f" {there} has {', '.join(names[:8])}." if names else ""
    hint = listed + nearest(folder.name, names)
    raise UsageError(f"model must be the folder of a SavedModel. Received: model={path}.{hint}")


def default_directory(command: str, model: str) -> str:
    """Returns ``runs/<command>-<run>-<export>`` for the path of a model."""
    parts = [part for part in Path(model).absolute().parts[-2:] if part != "saved_models"]
    return f"runs/{command}-{'-'.join(parts)}"


def training_settings(model: str) -> dict:
    """Returns the settings that the export at this path was trained with; empty if it does not tell."""
    return (manifest.read_manifest(Path(model)) or {}).get("config") or {}


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


def attack_of_training(training: Mapping, dataset: str, norm: str | None, eps: float | None) -> dict:
    """Completes an attack: as in the training if that is the same one, else as the presets have it.

    Args:
        training: what `training_settings` returned.
        norm, eps: what the user chose.

    Returns:
        norm, eps, attack_steps, attack_step_size, random_start.
    """
    norm = norm or training.get("norm", "linf")
    same = training.get("dataset") == dataset and training.get("norm") == norm
    epsilon = training.get("eps") if same and eps is None else eps
    values = preset(dataset, norm=norm, eps=epsilon)
    attack = {name: values[name] for name in ("eps", "attack_steps", "attack_step_size")}
    attack["random_start"] = "uniform"
    if same and epsilon == training.get("eps"):
        attack |= {name: training[name] for name in attack if name in training}
    return {"norm": norm, **attack}


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


def require_same(stored: Any, given: Mapping[str, Any], noun: str) -> None:
    """Checks that flags beside ``--resume`` only repeat what a run was started with.

    Args:
        stored: its settings dataclass.
        given: setting -> value on the command line.
        noun: what the run is called.

    Raises:
        UsageError: a value differs.
    """
    for name, value in given.items():
        if value != getattr(stored, name):
            raise UsageError(
                f"--resume continues with the settings of the {noun}: {name}="
                f"{absl_flags.show(getattr(stored, name))}. Received: {name}={absl_flags.show(value)}. "
                f"Leave it out, or start another {noun}."
            )


def resume_command(command: str, run: RunDirectory) -> str:
    """Returns what continues an interrupted run of ``advtf.<command>``."""
    return f"python -m advtf.{command} --out_dir={shlex.quote(str(run.path))} --resume"


@contextlib.contextmanager
def tell_how_to_continue(command: str, run: RunDirectory) -> Iterator[None]:
    """On Ctrl-C, says how a run that has begun is continued, and exits with 130."""
    try:
        yield
    except KeyboardInterrupt:
        unfinished = run.state() == "unfinished"
        print("Interrupted." + (f" Continue with: {resume_command(command, run)}" if unfinished else ""))
        sys.exit(130)


def table(lines: Mapping[str, str]) -> str:
    """Returns the plan of a run, a line per entry."""
    return "\n".join(f"{name:<10}{line}" for name, line in lines.items())
