"""An analysis from its settings to its results: the library call `analyze`, and the steps of the command.

`plan` decides what to run and where, `load` makes the `StudyContext`, and `run_analysis` makes the studies
one after another in a directory that can be continued. No TensorFlow at import, so that a wrong flag is
answered at once.
"""

import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advtf.classifiers.manifest import (
    require_classes,
    require_dataset,
    require_saved_model,
    training_settings,
)
from advtf.data.registry import require_known, require_order
from advtf.errors import UsageError, one_of, quantity
from advtf.runtime import require_deterministic, true_float32
from advtf.settings.commands import default_directory, plan_table
from advtf.settings.threat import describe_pgd, read_radius
from advtf.storage.cache import earlier_fingerprint, is_earlier
from advtf.storage.files import provenance, write_json
from advtf.storage.run_directory import RunDirectory
from advtf.studies.context import STATE, StudyContext
from advtf.studies.registry import STUDIES, check
from advtf.studies.settings import SHARED, AnalyzeOptions, CommonSettings, settings_class
from advtf.training.presets import attack_as_trained, order_as_trained

if TYPE_CHECKING:
    import numpy as np

FINISHED = "finished.json"  # in the folder of a study, written when it is done


@dataclasses.dataclass(frozen=True)
class AnalysisDirectory(RunDirectory):
    """The directory of an analysis: a folder of results for each study, and `analysis.json`, written last."""

    kind = "analysis"
    command = "analyze"
    own_files = ("analysis.json", "config.json")
    own_folders = STUDIES
    own_result = "studies"

    def stored_settings(self) -> CommonSettings:
        """Returns the settings the analysis was begun with.

        Raises:
            UsageError: config.json is damaged, or of another version.
        """
        config = self.read_config().get("config")
        studies = config.get("study") if isinstance(config, Mapping) else None
        named = isinstance(studies, list) and all(isinstance(name, str) for name in studies)
        return self.stored(settings_class(studies if named else ()), "config")

    def kept(self) -> str:
        """Returns which studies are finished."""
        folders = {name: self.path / name for name in self.own_folders}
        begun = [n for n, f in folders.items() if finished_files(f) or any((f / STATE).glob("*.npz"))]
        return f"what is finished of {', '.join(begun)}" if begun else ""

    def is_finished(self, settings: CommonSettings) -> bool:
        """Tells whether none of the studies is left to do."""
        return self.state() == "finished" and self.stored_settings().study == settings.study


def plan(
    given_settings: Mapping[str, Any], given_options: Mapping[str, Any]
) -> tuple[AnalysisDirectory, CommonSettings, AnalyzeOptions]:
    """Decides what to run and where, without writing anything.

    Args:
        given_settings, given_options: the flags on the command line; with ``resume`` they may only repeat
            what the analysis in `out_dir` was started with, say where its models are now, or add studies with
            settings of theirs.

    Raises:
        UsageError: a bad setting, a study that cannot be done, no such model, an unknown data set, or a
            directory that is in use.
    """
    options = AnalyzeOptions.of(given_options)
    studies = settings_class(STUDIES).of(given_settings).study
    settings = settings_class(studies).of(given_settings)
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
        earlier = run.stored(AnalyzeOptions, "options")
        settings = extended(run.stored_settings(), given)
        if not run.is_finished(settings):
            try:
                _require_studies(settings)
            except UsageError as error:
                raise UsageError(f"{error} If it was moved, say where to with --model.") from error
        kept = {"data_dir": options.data_dir or earlier.data_dir, "out_dir": earlier.out_dir}
        options = dataclasses.replace(options, **kept)
    else:
        training = {}
        if settings.model:
            training = training_settings(settings.model[0])
            dataset = require_dataset(settings.dataset, settings.model[0])
            settings = dataclasses.replace(settings, dataset=dataset)
        settings = completed(settings, training)
    check(settings, len(settings.model))
    if settings.dataset:
        require_known(settings.dataset, options.data_dir)
        require_order(settings.dataset, settings.order)
    return run, settings, options


def _require_studies(settings):
    if not settings.study:
        known = ", ".join(STUDIES)
        raise UsageError(f"study must be given. Received: no --study. Name one or more of {known}.")
    for path in settings.model:
        require_saved_model(path)


def _default_directory(settings):
    if settings.model:
        return default_directory("analyze", settings.model[0])
    return f"runs/analyze-{'-'.join(settings.study)}"


def extended(stored: CommonSettings, given: Mapping[str, Any]) -> CommonSettings:
    """Returns the settings of an analysis with the studies in `given` added, and the settings of these.

    Models that `given` names take the place of those of the analysis: `run_analysis` compares their weights.

    Raises:
        UsageError: `given` differs from `stored` in what other studies depend on.
    """
    added = tuple(name for name in given.get("study", ()) if name not in stored.study)
    chosen = settings_class(stored.study + added)
    unused = _sections(added) - _sections(stored.study)
    free = {field.name for field in dataclasses.fields(chosen) if field.metadata["section"] in unused}
    free |= {"model"} if given.get("model") else set()  # it may have been moved; its weights are compared
    fixed = {name: value for name, value in given.items() if name != "study" and name not in free}
    stored.require_same(fixed, "analysis")
    new = {name: value for name, value in given.items() if name in free}
    return chosen(**{**stored.to_json(), **new, "study": stored.study + added})


def _sections(names):
    return {section for name in names for section in STUDIES[name].sections}


def completed(settings: CommonSettings, training: Mapping) -> CommonSettings:
    """Fills what was not given of the attack, and the order: from the training of the first classifier.

    What that does not tell is taken from the presets.

    Args:
        training: settings of that training; empty if unknown.
    """
    dataset = settings.dataset or training.get("dataset") or "arrays"
    order = settings.order or order_as_trained(training, dataset)
    attack = attack_as_trained(training, dataset, settings.norm, settings.eps)
    given = settings.of_sections("attack")
    filled = {name: attack[name] for name, value in given.items() if value is None}
    return dataclasses.replace(settings, order=order, **filled)


def describe(settings: CommonSettings, run: AnalysisDirectory) -> str:
    """Returns the plan in a few lines."""
    lines = {"study": ", ".join(settings.study)}
    if settings.model:
        lines["model"] = ", ".join(settings.model)
    if settings.dataset:
        order = " in the published order" if settings.order == "published" else ""
        images = quantity(settings.num_examples, f"{settings.split} image")
        lines["data"] = f"{settings.dataset}, at most {images}, the first ones{order}"
        pgd = describe_pgd(
            settings.norm,
            settings.eps,
            settings.attack_steps,
            settings.attack_step_size,
            settings.random_start,
        )
        lines["attack"] = f"{pgd}, seed {settings.seed}"
    return plan_table({**lines, "output": str(run.path)})


def load(
    settings: CommonSettings, options: AnalyzeOptions, folder: Path, say: Callable[[str], None]
) -> StudyContext:
    """Loads the classifiers and the images of the command.

    Args:
        settings: complete.
        options: of the command.
        folder: of the analysis.
        say: called with each line for the user.

    Raises:
        UsageError: they cannot be had, or do not fit each other.
    """
    from advtf.classifiers.classifier import as_classifier
    from advtf.data import sets as data
    from advtf.data.arrays import to_unit_float

    classifiers = [as_classifier(path, movable=True) for path in settings.model]
    source = {"classifiers": list(settings.model)}
    if settings.dataset is None:
        return StudyContext(settings, classifiers, None, None, None, None, folder, say, source)
    training = training_settings(settings.model[0]) if settings.model else {}
    # The loss is that of the training: what was not trained on then is left out here, too.
    same = training if training.get("dataset") == settings.dataset else {}
    chosen_then = {
        "val_fraction": same.get("val_fraction", 0.0),
        "train_examples": same.get("train_examples"),
    }
    name, folder_of_data, size = settings.dataset, options.data_dir, training.get("image_size")
    if settings.split == "test":
        test, classes = data.load_test(name, folder_of_data, size, settings.order, settings.num_examples)
        chosen = test
    else:
        images = data.load(name, folder_of_data, image_size=size, order=settings.order, **chosen_then)
        chosen, test = (part.select(slice(settings.num_examples)) for part in (images.train, images.test))
        classes = images.num_classes
    for path, classifier in zip(settings.model, classifiers, strict=True):
        require_classes(path, classifier.num_classes, settings.dataset, classes)
    source |= {"dataset": settings.dataset, "order": settings.order, "split": settings.split}
    source |= {"examples": len(chosen), "test_examples": len(test)}
    source |= {"images": chosen.record(), "test_images": test.record()}
    x, x_test = (to_unit_float(part.images).numpy() for part in (chosen, test))
    return StudyContext(settings, classifiers, x, chosen.labels, x_test, test.labels, folder, say, source)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the studies of an analysis.

    Attributes:
        files: what each finished study wrote, results first, by its name.
        failures: why a study could not be done, by its name.
        finished: whether all studies of the analysis are finished, so that `analysis.json` is written.
    """

    files: dict[str, list[Path]]
    failures: dict[str, UsageError]
    finished: bool


def run_analysis(
    run: AnalysisDirectory,
    context: StudyContext,
    options: AnalyzeOptions,
    *,
    resume: bool,
    studies: Iterable[str] | None = None,
) -> Outcome:
    """Makes studies in a directory that the caller has locked; one that fails does not stop the next.

    Every study that is finished is on disk, whatever becomes of the next one.

    Args:
        run: the directory.
        context: of the analysis.
        options: of the command, for config.json.
        resume: whether the directory holds this analysis already.
        studies: names of those to make. Defaults to all of the settings.

    Raises:
        UsageError: the analysis was begun with other classifiers or images.
    """
    _begin(run, context, options, resume)
    files, failures = {}, {}
    for name in context.settings.study if studies is None else studies:
        written = finished_files(run.path / name)
        if written is None:
            context.say(f"\n{name}")
            try:
                written = _make(name, context.of_study(name))
            except UsageError as error:
                context.say(f"not done: {error}")
                failures[name] = error
                continue
        else:
            context.say(f"\n{name}: done before")
        files[name] = written
    return Outcome(files, failures, _finish(run, context))


def _begin(run, context, options, resume):
    """Writes config.json; of an analysis that continues, checks the identity and adds new studies."""
    identity = context.identity()
    if resume:
        record = run.read_config()
        stored = record.get("identity")
        if stored != (context.identity(earlier_fingerprint) if is_earlier(stored) else identity):
            raise UsageError(
                f"{run.path} must continue with the classifiers and images it was begun with. Received: "
                "others. Start afresh with --overwrite or another --out_dir."
            )
        if run.stored_settings().study == context.settings.study:
            return
        run.results.unlink(missing_ok=True)  # there are studies left to do
    run.write_config(context.settings, options, identity=identity)


def finished_files(folder: Path) -> list[Path] | None:
    """Returns what the study in this folder wrote, or None if it is not finished or files are gone."""
    try:
        names = json.loads((folder / FINISHED).read_text())["files"]
        files = [folder / name for name in names]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return files if all(file.exists() for file in files) else None


@true_float32()
def _make(name, context):
    began = time.monotonic()
    files = [Path(file) for file in STUDIES[name].run(context)]
    seconds = time.monotonic() - began
    names = [str(file.relative_to(context.folder)) for file in files]
    write_json(context.folder / FINISHED, {"files": names, "seconds": round(seconds, 3)})
    shutil.rmtree(context.folder / STATE, ignore_errors=True)
    context.say(f"{name} took {seconds:.1f} s")
    return files


def _finish(run, context):
    """Writes analysis.json, the files of each study, once all are finished; returns whether they are."""
    files = {name: finished_files(run.path / name) for name in context.settings.study}
    if None in files.values():
        return False
    listed = {name: [str(file.relative_to(run.path)) for file in found] for name, found in files.items()}
    write_json(run.results, provenance() | dict(context.source) | {"studies": listed})
    return True


def analyze(
    classifier: object = None,
    x: "np.ndarray | None" = None,
    y: "np.ndarray | None" = None,
    *,
    study: str,
    epsilon: float | None = None,
    norm: str | None = None,
    x_test: "np.ndarray | None" = None,
    y_test: "np.ndarray | None" = None,
    out_dir: str | Path | None = None,
    say: Callable[[str], None] | None = None,
    **settings: object,
) -> dict:
    """Makes one study of a classifier.

    Args:
        classifier: a Keras model or the path of a SavedModel; a list of them for studies of several models.
            "theory", and "dynamics" of training runs, need none.
        x: images (N, H, W, C), uint8 or float in [0, 1]; the loss is the mean over all of them.
        y: integer labels (N,).
        study: a name of `advtf.studies.STUDIES`, which may be that of a study of your own.
        epsilon: radius of the attack. Defaults to that of the classifier's training, where its export tells.
        norm: "linf" or "l2", that of the radius. Defaults to that of the training, else to "linf".
        x_test, y_test: test images and labels, for studies that measure the test error.
        out_dir: where results and figures go; the same call continues there after a crash, and other studies
            of the same classifier and images may be added. Without it only the numbers are returned.
        say: called with each line of progress. Defaults to silence.
        **settings: other settings of the study and of the attack: eigenvalues, attack_steps, seed ...

    Returns:
        The content of ``<study>/<study>.json``.

    Raises:
        UsageError: a bad setting, images or labels that do not fit, not a classifier, or `out_dir` holds
            something else.

    Examples:
        >>> found = advtf.analyze(model, x, y, study="hessian", epsilon=8 / 255, eigenvalues=5)
        >>> found["models"][0]["values"]
    """
    one_of("study", study, STUDIES)
    for field in dataclasses.fields(CommonSettings):
        name = field.name
        if field.metadata["section"] == "target" and name in settings:  # there are arguments for these
            raise UsageError(
                f"{name} is a setting of the command. Received: {name}={settings[name]}. "
                "Pass classifier, x and y instead."
            )
    epsilon = None if epsilon is None else read_radius("epsilon", epsilon, norm)
    given = {**settings, "study": (study,), "eps": epsilon, "norm": norm}
    chosen = settings_class([study]).of(given)
    require_deterministic(chosen.deterministic)
    arrays = (*_checked("train", x, y), *_checked("test", x_test, y_test))
    classifiers = _classifiers(study, classifier, *arrays)
    training = classifiers[0].config if classifiers else {}
    if classifiers and epsilon is None and "eps" not in training:
        raise UsageError(
            f"epsilon must be given, as {classifiers[0].name} does not tell what it was trained with. "
            "Received: epsilon=None."
        )
    if epsilon is not None:
        read_radius("epsilon", epsilon, norm or training.get("norm", "linf"))
    chosen = completed(chosen, training)
    source = {"classifiers": [each.name for each in classifiers]}
    source |= _record_of(*arrays)
    context = StudyContext(chosen, classifiers, *arrays, Path(), say or (lambda line: None), source)
    check(chosen, len(classifiers))
    if out_dir is not None:
        return _study_in(Path(out_dir), study, context)
    with tempfile.TemporaryDirectory() as folder:
        return _study_in(Path(folder), study, context)


def _checked(part, x, y):
    """Returns the images, float32 in [0, 1], and the labels; or None twice if neither was given."""
    if x is None and y is None:
        return None, None
    if x is None or y is None:
        suffix = "_test" if part == "test" else ""
        raise UsageError(f"x{suffix} and y{suffix} must be given together. Received: one of them.")
    from advtf.data import arrays
    from advtf.data.arrays import to_unit_float

    x, y = arrays.checked(part, x, y)
    return to_unit_float(x).numpy(), y


def _record_of(x, y, x_test, y_test):
    """Returns what results tell about the images of the library call."""
    if x is None and x_test is None:
        return {}
    from advtf.data.sets import Split

    given = {"": (x, y), "test_": (x_test, y_test)}
    splits = {name: Split(*pair) for name, pair in given.items() if pair[0] is not None}
    counts = {f"{name}examples": len(split) for name, split in splits.items()}
    return counts | {f"{name}images": split.record() for name, split in splits.items()}


def _classifiers(study, classifier, x, y, x_test, y_test):
    """Returns the classifiers of the library call; checks that it has the images and labels they need."""
    from advtf.classifiers.classifier import as_classifier
    from advtf.data import arrays

    several = isinstance(classifier, Sequence) and not isinstance(classifier, str)
    listed = list(classifier) if several else [] if classifier is None else [classifier]
    for name, given, needed in (
        ("x and y", x, bool(listed)),
        ("x_test and y_test", x_test, STUDIES[study].test_images),
    ):
        if needed and given is None:
            raise UsageError(f"{name} must be given for study={study}. Received: None.")
    classifiers = [as_classifier(each, movable=True) for each in listed]
    labels = [part for part in (y, y_test) if part is not None]
    if labels:
        arrays.class_count(labels, classifiers[0].num_classes if classifiers else None)
    return classifiers


def _study_in(folder, study, context):
    """Makes the study in a folder, which may hold an analysis of the same classifiers and images."""
    present = AnalysisDirectory(folder).state() in ("finished", "unfinished")
    run = AnalysisDirectory.choose(str(folder), "", resume=present, overwrite=False)
    with run.locked(resume=present):
        settings = context.settings
        if present:
            given = settings.of_sections(*SHARED, *STUDIES[study].sections)
            settings = extended(run.stored_settings(), given)
        context = dataclasses.replace(context, settings=settings, folder=run.path)
        outcome = run_analysis(run, context, AnalyzeOptions(), resume=present, studies=[study])
        if outcome.failures:
            raise outcome.failures[study]
        return json.loads((run.path / study / f"{study}.json").read_text())
