"""Studies the loss landscape around saved classifiers: curvature, slices, dynamics, connectivity, theory.

python -m advtf.analyze --model=saved_models/digits-lenet-cosine-seed0/last --study=hessian
python -m advtf.analyze --model=saved_models/x/last --study=hessian,similarity,surface --num_examples=500
python -m advtf.analyze --model=saved_models/x/last,saved_models/y/last --study=connectivity
python -m advtf.analyze --study=dynamics --run_dirs=runs/x,runs/y
python -m advtf.analyze --study=theory
python -m advtf.analyze --out_dir=runs/analyze-x-last --resume      continue a killed analysis

In Python, ``advtf.analyze(classifier, x, y, study="hessian", epsilon=8/255)`` does the same.
"""

import functools
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from advtf import studies
from advtf.errors import UsageError, one_of
from advtf.settings import commands
from advtf.settings.commands import CallableModule
from advtf.studies import run as analysis_run
from advtf.studies.run import AnalysisDirectory
from advtf.studies.settings import AnalyzeOptions, AnalyzeSettings

if TYPE_CHECKING:
    import numpy as np

OF_THE_COMMAND = ("model", "dataset", "split", "num_examples")  # settings the library call has arguments for


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
        study: a name of `advtf.studies.STUDIES`.
        epsilon, norm: of the attack; default as in the classifier's training, where its export tells.
        x_test, y_test: for studies that measure the test error.
        out_dir: where results and figures go; the same call continues there after a crash, and other studies
            of the same classifier and images may be added. Without it only the numbers are returned.
        say: called with each line of progress.
        **settings: other fields of `advtf.studies.settings.AnalyzeSettings`: eigenvalues, offsets, seed, ...

    Returns:
        The content of ``<study>/<study>.json``.

    Raises:
        UsageError: a bad setting, images or labels that do not fit, not a classifier, or `out_dir` holds
            something else.
    """
    one_of("study", study, studies.STUDIES)
    for name in OF_THE_COMMAND:
        if name in settings:
            raise UsageError(
                f"{name} is a setting of the command. Received: {name}={settings[name]}. "
                "Pass classifier, x and y instead."
            )
    chosen = AnalyzeSettings(study=(study,), eps=epsilon, norm=norm, **settings)
    material = _material(study, _listed(classifier), (x, y), (x_test, y_test))
    chosen = analysis_run.completed(chosen, _training(material, epsilon))
    studies.check(chosen, len(material.classifiers))
    if out_dir is not None:
        return _study_in(Path(out_dir), chosen, material, say)
    with tempfile.TemporaryDirectory() as folder:
        return _study_in(Path(folder), chosen, material, say)


def _listed(classifier):
    if classifier is None:
        return []
    return (
        list(classifier)
        if isinstance(classifier, Sequence) and not isinstance(classifier, str)
        else [classifier]
    )


def _material(study, classifiers, images, test_images):
    from advtf.classifiers.classifier import as_classifier

    x, y = _checked("train", *images)
    x_test, y_test = _checked("test", *test_images)
    for name, given, needed in (
        ("x and y", x, bool(classifiers)),
        ("x_test and y_test", x_test, studies.STUDIES[study].test_images),
    ):
        if needed and given is None:
            raise UsageError(f"{name} must be given for study={study}. Received: None.")
    classifiers = [as_classifier(each, movable=True) for each in classifiers]
    source = {"classifiers": [classifier.name for classifier in classifiers]}
    if x is not None:
        source["examples"] = len(x)
    if x_test is not None:
        source["test_examples"] = len(x_test)
    return analysis_run.Material(classifiers, x, y, x_test, y_test, _classes(classifiers, y, y_test), source)


def _checked(part, x, y):
    if x is None and y is None:
        return None, None
    from advtf.data import arrays
    from advtf.data.augmentation import to_unit_float

    x, y = arrays.checked(part, x, y)
    return to_unit_float(x).numpy(), y


def _classes(classifiers, *labels):
    from advtf.data import arrays

    given = [part for part in labels if part is not None]
    if not given:
        return 0
    return arrays.class_count(given, classifiers[0].num_classes if classifiers else None)


def _training(material, epsilon):
    training = material.classifiers[0].config if material.classifiers else {}
    if material.classifiers and epsilon is None and "eps" not in training:
        raise UsageError(
            f"epsilon must be given, as {material.classifiers[0].name} does not tell what it was trained "
            "with. Received: epsilon=None."
        )
    return training


def _study_in(folder, settings, material, say):
    from advtf.studies import runner

    (study,) = settings.study
    present = AnalysisDirectory(folder).state() in ("finished", "unfinished")
    run = AnalysisDirectory.choose(str(folder), "", resume=present, overwrite=False)
    with run.locked(resume=present):
        if present:
            given = settings.of_sections(*analysis_run.SHARED, *studies.STUDIES[study].sections)
            settings = analysis_run.extended(analysis_run.stored_settings(run), given)
        analysis_run.begin(run, settings, AnalyzeOptions(), material, resume=present)
        outcome = runner.run_studies([study], settings, material, run.path, say or (lambda line: None))
        if outcome.failures:
            raise outcome.failures[study]
        runner.finish(run, settings, material)
        return json.loads((run.path / study / f"{study}.json").read_text())


def main(argv: list[str]) -> None:
    """Analyzes classifiers; exits with 2 for a mistake, 130 when interrupted."""
    del argv
    given = {cls: commands.given_flags(flags.FLAGS, cls) for cls in (AnalyzeSettings, AnalyzeOptions)}
    run, settings, options = analysis_run.plan(given[AnalyzeSettings], given[AnalyzeOptions])
    if options.resume and analysis_run.is_finished(run, settings):
        print(f"{run.path} is finished; its results are listed in {run.results}.")
        return
    print(analysis_run.describe(settings, run), flush=True)
    with run.tell_how_to_continue():
        _run(run, settings, options)


def _run(run, settings, options):
    from advtf import runtime  # everything above answers before TensorFlow starts

    devices = runtime.start(jit=settings.jit, verbose=options.verbose)
    print(f"{'device':<10}{devices.device}", flush=True)

    from advtf.studies import runner

    material = analysis_run.load(settings, options)
    with run.locked(resume=options.resume, overwrite=options.overwrite):
        analysis_run.begin(run, settings, options, material, resume=options.resume)
        say = functools.partial(print, flush=True)
        outcome = runner.run_studies(settings.study, settings, material, run.path, say)
        written = [file for files in outcome.files.values() for file in files]
        if runner.finish(run, settings, material):
            written = [run.results, *written]
    if written:
        print("\nWrote " + "\n      ".join(map(str, written)))
    if outcome.failures:
        raise UsageError("; ".join(f"{name}: {error}" for name, error in outcome.failures.items()))


sys.modules[__name__].__class__ = CallableModule  # advtf.analyze is the function, too

if __name__ == "__main__":
    commands.run_command(main, AnalyzeSettings, AnalyzeOptions)
