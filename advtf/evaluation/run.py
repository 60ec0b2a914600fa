"""A run of ``python -m advtf.evaluate``: its options, where its settings come from, its directory.

No TensorFlow at import, so that a wrong flag is answered at once.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from advtf.classifiers.manifest import (
    require_classes,
    require_dataset,
    require_saved_model,
    training_settings,
    weights_digest,
)
from advtf.data.registry import order_setting, require_known, require_order
from advtf.errors import UsageError, quantity
from advtf.evaluation.report import EvaluationDirectory, write
from advtf.evaluation.settings import AttackSettings, require_grid
from advtf.evaluation.sharing import Helpers, Shared
from advtf.settings.commands import CommandOptions, default_directory, plan_table
from advtf.settings.fields import numbers, parse_value, setting, switch, text, whole
from advtf.settings.threat import format_epsilon
from advtf.training.presets import attack_as_trained, order_as_trained
from advtf.training.settings import DATASET_NAME

if TYPE_CHECKING:
    import numpy as np

    from advtf.classifiers.classifier import Classifier
    from advtf.runtime import Runtime


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions(CommandOptions):
    """What the command attacks, and where it writes."""

    model: str | None = setting("target", text(), "SavedModel of a classifier or an ensemble", None)
    dataset: str | None = setting("target", DATASET_NAME, "test images; default those of its training", None)
    order: str | None = order_setting("target", None, "as in training")
    num_examples: int | None = setting("target", whole(1), "first test images only; default all", None)
    eps_grid: tuple[float, ...] = setting(
        "target", numbers("radii with commas between"), "more radii, for the curve of robust accuracy", ()
    )
    shards: int = setting(
        "compute", whole(1), "processes that share the batches; the results are those of one", 1, earlier=1
    )
    cluster: str | None = setting(
        "compute",
        text(),
        "Ray cluster for the shards: host:port, auto or local",
        None,
        earlier=None,
    )
    out_dir: str | None = setting("files", text(), "results; default runs/evaluate-<run>-<export>", None)
    save_examples: bool = setting("files", switch(), "keep all adversarial examples (NPZ)", False)

    def check(self) -> None:
        """Checks that a cluster has something to do."""
        super().check()
        if self.cluster and self.shards == 1:
            raise UsageError(
                f"cluster needs shards above 1. Received: cluster={self.cluster} with shards=1. "
                "Give the number of processes, this one included, as --shards."
            )


def plan(
    given_settings: Mapping[str, Any], given_options: Mapping[str, Any]
) -> tuple[EvaluationDirectory, AttackSettings, EvaluateOptions]:
    """Decides what to run and where, without writing anything.

    Args:
        given_settings, given_options: the flags on the command line; with ``resume`` they may only repeat
            what the evaluation in `out_dir` was started with, and say where its model is now.

    Raises:
        UsageError: a bad setting, no such model, an unknown data set, or a directory that is in use.
    """
    options = EvaluateOptions.of(given_options)
    if not (options.resume and options.out_dir):
        _require_model(options.model)
    default = default_directory("evaluate", options.model) if options.model else ""
    switches = {"resume": options.resume, "overwrite": options.overwrite}
    run = EvaluationDirectory.choose(options.out_dir, default, **switches)
    if options.resume:
        return run, *_stored(run, given_settings, given_options, options)
    settings, options = _completed(given_settings, options)
    require_known(options.dataset, options.data_dir)
    require_order(options.dataset, options.order)
    require_grid("eps_grid", options.eps_grid, settings.norm)
    return run, settings, options


def _require_model(model):
    if model is None:
        raise UsageError("model must be given. Received: no --model. Name the SavedModel of a classifier.")
    require_saved_model(model)


def _stored(run, given_settings, given_options, options):
    settings = run.stored(AttackSettings, "config")
    earlier = run.stored(EvaluateOptions, "options")
    free = (
        "model",
        "out_dir",
        "resume",
        "overwrite",
        "verbose",
        "data_dir",
        "save_examples",
        "shards",
        "cluster",
    )
    fixed = {name: value for name, value in given_options.items() if name not in free}
    settings.require_same(given_settings, "evaluation")
    earlier.require_same(fixed, "evaluation")
    names = ("model", "data_dir", "save_examples")
    kept = {name: getattr(options, name) or getattr(earlier, name) for name in names}
    if run.state() != "finished":
        _require_same_weights(run, kept["model"], earlier.model)
    return settings, dataclasses.replace(
        earlier,
        **kept,
        resume=True,
        overwrite=False,
        verbose=options.verbose,
        shards=options.shards,
        cluster=options.cluster,
    )


def _require_same_weights(run, model, earlier):
    """Checks that the classifier is the one of the evaluation, which may have been moved."""
    try:
        _require_model(model)
    except UsageError as error:
        raise UsageError(f"{error} If it was moved, say where to with --model.") from error
    weights = run.read_config().get("weights")  # earlier versions have not recorded them
    if weights != weights_digest(model) and (weights is not None or model != earlier):
        raise UsageError(
            f"--resume continues with the classifier of the evaluation, the one that was model={earlier}. "
            f"Received: model={model}, which has other weights. Name the one, or start another evaluation."
        )


def _completed(given, options):
    """Fills what was not given: from the classifier's training if the export tells, else from presets."""
    dataset = require_dataset(options.dataset, options.model)
    # The norm that belongs to a radius may be that of the training, so each is read without the other.
    fields = {field.name: field for field in dataclasses.fields(AttackSettings)}
    norm, epsilon = (
        None if given.get(name) is None else parse_value(fields[name], given[name])
        for name in ("norm", "eps")
    )
    training = training_settings(options.model)
    attack = attack_as_trained(training, dataset, norm, epsilon)
    order = options.order or order_as_trained(training, dataset)
    filled = {"norm": attack["norm"], "eps": attack["eps"]}
    filled |= {"pgd_steps": attack["attack_steps"], "pgd_step_size": attack["attack_step_size"]}
    return AttackSettings.of({**filled, **given}), dataclasses.replace(options, dataset=dataset, order=order)


def describe(settings: AttackSettings, options: EvaluateOptions, run: EvaluationDirectory) -> str:
    """Returns the plan in a few lines."""
    first = f"first {quantity(options.num_examples, 'test image')}" if options.num_examples else "test images"
    order = " in the published order" if options.order == "published" else ""
    names = ("pgd_steps", "steps", "restarts", "targets", "queries")
    effort = ", ".join(f"{name} {getattr(settings, name)}" for name in names)
    lines = {
        "model": options.model,
        "data": f"{options.dataset}, {first}{order}",
        "attacks": f"{', '.join(settings.attacks)} ({effort})",
        "ball": f"{settings.norm}, ε {format_epsilon(settings.eps)}, seed {settings.seed}",
        "output": str(run.path),
    }
    if options.shards > 1:
        place = f", on the Ray cluster {options.cluster}" if options.cluster else ""
        lines["shards"] = (
            f"{options.shards} processes{place}, batches of {quantity(settings.batch_size, 'image')}"
        )
    return plan_table(lines)


def execute(
    run: EvaluationDirectory, settings: AttackSettings, options: EvaluateOptions, script: str | None = None
) -> None:
    """Evaluates what was planned, and prints and writes the result.

    What is finished is kept in the directory, so that `--resume` continues from there.

    Args:
        run, settings, options: what `plan` has returned.
        script: the path of a script that has started the command after it has registered attacks of its own;
            with shards, each of the other processes runs it, too.

    Raises:
        UsageError: the classifier or the images cannot be had, or do not fit each other.
    """
    helpers = Helpers(run, options.shards - 1, options.cluster, script)
    with helpers:  # everything before this answers without TensorFlow
        _execute(run, settings, options, helpers)


def start_runtime(settings: AttackSettings, verbose: bool = False) -> "Runtime":
    """Starts TensorFlow as every process of an evaluation does; see `advtf.runtime.start`."""
    from advtf import runtime

    return runtime.start(
        jit=settings.jit,
        verbose=verbose,
        deterministic=settings.deterministic,
        parallel_operations=False,  # the engine gives each core its part of a batch
    )


def _execute(run, settings, options, helpers):
    devices = start_runtime(settings, options.verbose)
    print(f"{'device':<10}{devices.device}\n", flush=True)

    from advtf.evaluation.engine import evaluate_classifier
    from advtf.storage import cache

    classifier, x, y = load(settings, options)
    with run.locked(resume=options.resume, overwrite=options.overwrite):
        if not options.resume:
            run.write_config(settings, options, weights=weights_digest(options.model))
        helpers.begin()
        evaluation = evaluate_classifier(
            classifier,
            x,
            y,
            settings,
            epsilon_grid=options.eps_grid,
            state_dir=run.attacked,
            say=functools.partial(print, flush=True),
            sharing=Shared(run.attacked, leads=True) if options.shards > 1 else None,
        )
        helpers.end()
        source = {"path": options.model, "dataset": options.dataset, "order": options.order}
        written = write(evaluation, classifier, x, y, run, source=source, all_examples=options.save_examples)
        cache.clear(run.attacked)
    print(f"\n{evaluation}")
    for warning in evaluation.warnings:
        print(f"\nwarning: {warning}")
    print("\nWrote " + "\n      ".join(map(str, written)))


def load(
    settings: AttackSettings, options: EvaluateOptions
) -> tuple["Classifier", "np.ndarray", "np.ndarray"]:
    """Returns the classifier, and the test images float32 in [0, 1] with their labels.

    Raises:
        UsageError: they cannot be had, or do not fit each other.
    """
    from advtf.classifiers.classifier import as_classifier
    from advtf.data import sets as data
    from advtf.data.arrays import to_unit_float

    size = training_settings(options.model).get("image_size")
    test, classes = data.load_test(
        options.dataset, options.data_dir, size, options.order, options.num_examples
    )
    x = to_unit_float(test.images).numpy()
    classifier = as_classifier(options.model, x, test.labels, outputs=settings.outputs)
    require_classes(options.model, classifier.num_classes, options.dataset, classes)
    return classifier, x, test.labels
