"""A run of ``python -m advtf.evaluate``: its options, where its settings come from, its directory.

No TensorFlow at import, so that a wrong flag is answered at once.
"""

import dataclasses
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advtf import absl_flags, manifest, rundir
from advtf.atomic import write_json
from advtf.attacks.autoattack import AttackSettings, require_radius
from advtf.attacks.replay import clear
from advtf.config import DATASET_NAME, from_json, to_json
from advtf.dataset_names import require_known
from advtf.errors import UsageError, nearest
from advtf.presets import preset
from advtf.rundir import RunDirectory
from advtf.settings import format_epsilon, normalise, numbers, setting, switch, text, whole

if TYPE_CHECKING:
    import numpy as np

    from advtf.targets import Target

STATE, EXAMPLES = "state", "adversarial_examples.npz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What the command attacks, and where it writes."""

    model: str | None = setting("target", text(), "SavedModel of a classifier or an ensemble", None)
    dataset: str | None = setting("target", DATASET_NAME, "test images; default those of its training", None)
    data_dir: str | None = setting(
        "target", text(), "prepared TFDS data; else TFDS_DATA_DIR, ~/tensorflow_datasets", None
    )
    num_examples: int | None = setting("target", whole(1), "first test images only; default all", None)
    eps_grid: tuple[float, ...] = setting(
        "target", numbers("radii with commas between"), "more radii, for the curve of robust accuracy", ()
    )
    out_dir: str | None = setting("files", text(), "results; default runs/evaluate-<run>-<export>", None)
    resume: bool = setting("files", switch(), "continue the evaluation in out_dir", False)
    overwrite: bool = setting("files", switch(), "replace the evaluation in out_dir", False)
    save_examples: bool = setting("files", switch(), "keep all adversarial examples (NPZ)", False)
    verbose: bool = setting("files", switch(), "show TensorFlow's start-up messages", False)

    def __post_init__(self) -> None:
        normalise(self)
        if self.resume and self.overwrite:
            raise UsageError(
                "resume and overwrite exclude each other. Received: resume=True, overwrite=True."
            )


def plan(
    given_settings: Mapping[str, Any], given_options: Mapping[str, Any]
) -> tuple[RunDirectory, AttackSettings, EvaluateOptions]:
    """Decides what to run and where, without writing anything.

    Args:
        given_settings, given_options: the flags on the command line; with ``resume`` they may only repeat
            what the evaluation in `out_dir` was started with.

    Raises:
        UsageError: a bad setting, no such model, an unknown data set, or a directory that is in use.
    """
    options = EvaluateOptions(**given_options)
    AttackSettings(**given_settings)  # answers a mistake before any file is looked at
    if not (options.resume and options.out_dir):
        _require_model(options.model)
    default = _default_directory(options.model) if options.model else ""
    if options.out_dir or options.overwrite:
        _require_evaluation(RunDirectory(Path(options.out_dir or default)))
    switches = {"resume": options.resume, "overwrite": options.overwrite}
    run = rundir.choose(options.out_dir, default, **switches, taken=lambda path: False)
    if options.resume:
        return run, *_stored(run, given_settings, given_options, options)
    settings, options = _completed(given_settings, options)
    require_known(options.dataset, options.data_dir)
    for epsilon in options.eps_grid:
        require_radius(epsilon, settings.norm, "eps_grid")
    return run, settings, options


def _require_model(model):
    if model is None:
        raise UsageError("model must be given. Received: no --model. Name the SavedModel of a classifier.")
    path = Path(model)
    if any(path.glob("saved_model.pb*")):
        return
    folder = path if path.is_dir() else path.parent
    names = sorted(found.parent.name for found in folder.glob("*/saved_model.pb*"))
    there = f" {folder} has {', '.join(names[:8])}." if names else ""
    hint = there + nearest(path.name, names)
    raise UsageError(f"model must be the folder of a SavedModel. Received: model={model}.{hint}")


def _default_directory(model):
    parts = [part for part in Path(model).absolute().parts[-2:] if part != "saved_models"]
    return f"runs/evaluate-{'-'.join(parts)}"


def _require_evaluation(run):
    """Protects a training: its directory looks the same, but holds weeks of work."""
    in_use = run.state() in ("finished", "unfinished")
    if in_use and "num_examples" not in _record(run).get("options", {}):
        raise UsageError(f"out_dir must not hold a training. Received: {run.path}. Choose another --out_dir.")


def _record(run):
    try:
        return json.loads(run.config.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"--resume requires a readable {run.config}. Received: {error}.") from error


def _stored(run, given_settings, given_options, options):
    record = _record(run)
    settings = from_json(AttackSettings, record.get("config"))
    earlier = from_json(EvaluateOptions, record.get("options"))
    free = ("out_dir", "resume", "overwrite", "verbose", "data_dir", "save_examples")
    fixed = {name: value for name, value in given_options.items() if name not in free}
    for stored, given in ((settings, given_settings), (earlier, fixed)):
        for name, value in given.items():
            if value != getattr(stored, name):
                raise UsageError(
                    f"--resume continues with the settings of the evaluation: {name}="
                    f"{absl_flags.show(getattr(stored, name))}. Received: {name}={absl_flags.show(value)}. "
                    "Leave it out, or start another evaluation."
                )
    kept = {name: getattr(options, name) or getattr(earlier, name) for name in ("data_dir", "save_examples")}
    return settings, dataclasses.replace(
        earlier, **kept, resume=True, overwrite=False, verbose=options.verbose
    )


def _completed(given, options):
    """Fills what was not given: from the classifier's training if the export tells, else from presets."""
    stored = manifest.read_manifest(Path(options.model)) or {}
    training = stored.get("config") or {}
    dataset = options.dataset or training.get("dataset")
    if dataset is None:
        raise UsageError(
            f"dataset must be given, as {options.model} does not tell what it was trained on. "
            "Received: no --dataset."
        )
    norm = given.get("norm", training.get("norm", "linf"))
    same = training.get("dataset") == dataset and training.get("norm") == norm
    epsilon = given.get("eps", training.get("eps") if same else None)
    values = preset(dataset, norm=norm, eps=epsilon)
    if same and epsilon == training["eps"]:
        values |= {name: training[name] for name in ("attack_steps", "attack_step_size")}
    filled = {"norm": norm, "eps": values["eps"]}
    filled |= {"pgd_steps": values["attack_steps"], "pgd_step_size": values["attack_step_size"]}
    return AttackSettings(**{**filled, **given}), dataclasses.replace(options, dataset=dataset)


def describe(settings: AttackSettings, options: EvaluateOptions, run: RunDirectory) -> str:
    """Returns the plan in a few lines."""
    first = f", first {options.num_examples} test images" if options.num_examples else ", test images"
    effort = f"iterations {settings.steps}, restarts {settings.restarts}, queries {settings.queries}"
    lines = {
        "model": options.model,
        "data": f"{options.dataset}{first}",
        "attacks": f"{', '.join(settings.attacks)} ({effort})",
        "ball": f"{settings.norm}, ε {format_epsilon(settings.eps)}, seed {settings.seed}",
        "output": str(run.path),
    }
    return "\n".join(f"{name:<10}{line}" for name, line in lines.items())


def load(settings: AttackSettings, options: EvaluateOptions) -> tuple["Target", "np.ndarray", "np.ndarray"]:
    """Returns the classifier, and the test images float32 in [0, 1] with their labels.

    Raises:
        UsageError: they cannot be had, or do not fit each other.
    """
    from advtf import data
    from advtf.augmentation import to_unit_float
    from advtf.targets import as_target

    stored = manifest.read_manifest(Path(options.model)) or {}
    size = (stored.get("config") or {}).get("image_size")
    images = data.load(options.dataset, options.data_dir, image_size=size)
    test = images.test.select(slice(options.num_examples))
    x = to_unit_float(test.images).numpy()
    target = as_target(options.model, x, test.labels, settings.outputs)
    if target.num_classes != images.num_classes:
        raise UsageError(
            f"model must have the {images.num_classes} classes of {options.dataset}. "
            f"Received: {options.model} with {target.num_classes}. Choose the --dataset it was trained on."
        )
    return target, x, test.labels


def begin(run: RunDirectory, settings: AttackSettings, options: EvaluateOptions) -> None:
    """Writes config.json, unless the evaluation continues; an old one's state and examples go."""
    if options.resume:
        return
    clear(run.path / STATE)
    (run.path / EXAMPLES).unlink(missing_ok=True)
    write_json(run.config, manifest.provenance() | {"config": to_json(settings), "options": to_json(options)})


def resume_command(run: RunDirectory) -> str:
    """Returns what continues an interrupted evaluation."""
    return f"python -m advtf.evaluate --out_dir={shlex.quote(str(run.path))} --resume"
