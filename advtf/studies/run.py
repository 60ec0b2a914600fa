"""A run of ``python -m advtf.analyze``: where its settings come from, its material, its directory.

No TensorFlow at import, so that a wrong flag is answered at once.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from advtf import studies
from advtf.classifiers.manifest import (
    require_classes,
    require_dataset,
    require_saved_model,
    training_settings,
)
from advtf.data.registry import require_known
from advtf.errors import UsageError
from advtf.settings.commands import default_directory, plan_table
from advtf.settings.threat import describe_pgd
from advtf.storage.cache import fingerprint
from advtf.storage.run_directory import RunDirectory
from advtf.studies.settings import AnalyzeOptions, AnalyzeSettings
from advtf.training.presets import attack_as_trained

if TYPE_CHECKING:
    from advtf.classifiers.classifier import Classifier

OF_TRAINING = ("norm", "eps", "attack_steps", "attack_step_size", "random_start")
SHARED = ("target", "attack", "compute")  # the sections of settings that concern every study


@dataclasses.dataclass(frozen=True)
class AnalysisDirectory(RunDirectory):
    """The directory of an analysis: a folder of results for each study, and `analysis.json`, written last."""

    kind = "analysis"
    command = "analyze"
    own_files = ("analysis.json", "config.json")
    own_folders = studies.STUDIES


def plan(
    given_settings: Mapping[str, Any], given_options: Mapping[str, Any]
) -> tuple[AnalysisDirectory, AnalyzeSettings, AnalyzeOptions]:
    """Decides what to run and where, without writing anything.

    Args:
        given_settings, given_options: the flags on the command line; with ``resume`` they may only repeat
            what the analysis in `out_dir` was started with, or add studies with settings of theirs.

    Raises:
        UsageError: a bad setting, a study that cannot be done, no such model, an unknown data set, or a
            directory that is in use.
    """
    options, settings = AnalyzeOptions.of(given_options), AnalyzeSettings.of(given_settings)
    if not (options.resume and options.out_dir):
        _require_studies(settings)
    run = AnalysisDirectory.choose(
        options.out_dir,
        _default_directory(settings),
        resume=options.resume,
        overwrite=options.overwrite,
    )
    if options.resume:
        given = {name: getattr(settings, name) for name in given_settings}
        settings, options = _stored(run, given, options)
    else:
        training = training_settings(settings.model[0]) if settings.model else {}
        settings = completed(dataclasses.replace(settings, dataset=_dataset(settings)), training)
    studies.check(settings, len(settings.model))
    if settings.dataset:
        require_known(settings.dataset, options.data_dir)
    return run, settings, options


def _require_studies(settings):
    if not settings.study:
        known = ", ".join(studies.STUDIES)
        raise UsageError(f"study must be given. Received: no --study. Name one or more of {known}.")
    for path in settings.model:
        require_saved_model(path)


def _default_directory(settings):
    if settings.model:
        return default_directory("analyze", settings.model[0])
    return f"runs/analyze-{'-'.join(settings.study)}"


def stored_settings(run: AnalysisDirectory) -> AnalyzeSettings:
    """Returns the settings an analysis was begun with.

    Raises:
        UsageError: config.json is damaged, or of another version.
    """
    return AnalyzeSettings.from_json(run.read_config().get("config"))


def _stored(run, given, options):
    earlier = AnalyzeOptions.from_json(run.read_config().get("options"))
    settings = extended(stored_settings(run), given)
    _require_studies(settings)
    kept = {"data_dir": options.data_dir or earlier.data_dir, "out_dir": earlier.out_dir}
    return settings, dataclasses.replace(options, **kept)


def extended(stored: AnalyzeSettings, given: Mapping[str, Any]) -> AnalyzeSettings:
    """Returns the settings of an analysis with the studies in `given` added, and the settings of these.

    Raises:
        UsageError: `given` differs from `stored` in what other studies depend on.
    """
    added = tuple(name for name in given.get("study", ()) if name not in stored.study)
    unused = stored.of_sections(*(_sections(added) - _sections(stored.study)))
    free = {name: value for name, value in given.items() if name in unused}
    fixed = {name: value for name, value in given.items() if name != "study" and name not in free}
    stored.require_same(fixed, "analysis")
    return dataclasses.replace(stored, study=stored.study + added, **free)


def _sections(names):
    return {section for name in names for section in studies.STUDIES[name].sections}


def _dataset(settings):
    return require_dataset(settings.dataset, settings.model[0]) if settings.model else settings.dataset


def completed(settings: AnalyzeSettings, training: Mapping) -> AnalyzeSettings:
    """Fills what was not given of the attack: from the training of the first classifier, else from presets.

    Args:
        training: settings of that training; empty if unknown.
    """
    dataset = settings.dataset or training.get("dataset") or "arrays"
    attack = attack_as_trained(training, dataset, settings.norm, settings.eps)
    missing = {name: attack[name] for name in OF_TRAINING if getattr(settings, name) is None}
    return dataclasses.replace(settings, **missing)


def describe(settings: AnalyzeSettings, run: AnalysisDirectory) -> str:
    """Returns the plan in a few lines."""
    lines = {"study": ", ".join(settings.study)}
    if settings.model:
        lines["model"] = ", ".join(settings.model)
    if settings.dataset:
        lines["data"] = f"{settings.dataset}, first {settings.num_examples:,} {settings.split} images"
        pgd = (getattr(settings, name) for name in OF_TRAINING)
        lines["attack"] = f"{describe_pgd(*pgd)}, seed {settings.seed}"
    return plan_table({**lines, "output": str(run.path)})


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """What is studied; the fields are those of `advtf.studies.context.StudyContext`."""

    classifiers: "list[Classifier]"
    x: np.ndarray | None = None
    y: np.ndarray | None = None
    x_test: np.ndarray | None = None
    y_test: np.ndarray | None = None
    num_classes: int = 0
    source: Mapping = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for classifier in self.classifiers[1:]:
            first = self.classifiers[0]
            if (classifier.input_shape, classifier.num_classes) != (first.input_shape, first.num_classes):
                raise UsageError(
                    "models must have one input shape and number of classes. "
                    f"Received: {_shapes(first)} and {_shapes(classifier)}."
                )
        if self.classifiers and self.x is not None:
            _require_images(self.classifiers[0], self.x.shape[1:])

    def identity(self) -> str:
        """Returns a digest of the weights, the images and the labels."""
        weights = [classifier.parameters.value() for classifier in self.classifiers]
        images = [self.x, self.y, self.x_test, self.y_test]
        return fingerprint(*weights, *(array for array in images if array is not None))


def _shapes(classifier):
    return f"{classifier.name} with {_shape(classifier.input_shape)}, {classifier.num_classes} classes"


def _shape(sizes):
    return "×".join("?" if size is None else str(size) for size in sizes)


def _require_images(classifier, shape):
    free_or_equal = all(
        size in (None, given) for size, given in zip(classifier.input_shape, shape, strict=True)
    )
    if not free_or_equal:
        raise UsageError(
            f"images must have the {_shape(classifier.input_shape)} pixels and channels of {classifier.name}."
            f" Received: {_shape(shape)}. Choose the data it was trained on."
        )


def load(settings: AnalyzeSettings, options: AnalyzeOptions) -> Material:
    """Loads the classifiers and the images.

    Raises:
        UsageError: they cannot be had, or do not fit each other.
    """
    from advtf.classifiers.classifier import as_classifier
    from advtf.data import sets as data
    from advtf.data.augmentation import to_unit_float

    classifiers = [as_classifier(path, movable=True) for path in settings.model]
    source = {"classifiers": list(settings.model)}
    if settings.dataset is None:
        return Material(classifiers, source=source)
    training = training_settings(settings.model[0]) if settings.model else {}
    # The loss is that of the training: what was held out then is left out here, too.
    held_out = training.get("val_fraction", 0.0) if training.get("dataset") == settings.dataset else 0.0
    images = data.load(settings.dataset, options.data_dir, held_out, training.get("image_size"))
    for path, classifier in zip(settings.model, classifiers, strict=True):
        require_classes(path, classifier.num_classes, settings.dataset, images.num_classes)
    chosen = getattr(images, settings.split).select(slice(settings.num_examples))
    test = images.test.select(slice(settings.num_examples))
    source |= {"dataset": settings.dataset, "split": settings.split}
    source |= {"examples": len(chosen), "test_examples": len(test)}
    x, x_test = (to_unit_float(part.images).numpy() for part in (chosen, test))
    return Material(classifiers, x, chosen.labels, x_test, test.labels, images.num_classes, source)


def begin(
    run: AnalysisDirectory,
    settings: AnalyzeSettings,
    options: AnalyzeOptions,
    material: Material,
    resume: bool,
) -> None:
    """Writes config.json; of an analysis that continues, checks the material and adds new studies.

    Raises:
        UsageError: it was begun with other classifiers or images.
    """
    identity = material.identity()
    if resume:
        record = run.read_config()
        if record.get("identity") != identity:
            raise UsageError(
                f"{run.path} must continue with the classifiers and images it was begun with. Received: "
                "others. Start afresh with --overwrite or another --out_dir."
            )
        if tuple(record["config"]["study"]) == settings.study:
            return
        run.results.unlink(missing_ok=True)  # no longer finished
    run.write_config(settings, options, identity=identity)


def is_finished(run: AnalysisDirectory, settings: AnalyzeSettings) -> bool:
    """Whether there is nothing left to do."""
    return run.state() == "finished" and tuple(run.read_config()["config"]["study"]) == settings.study
