"""The study ``input``: slope, curvature and attacks of the loss around each image.

Li & Spratling 2023, sections 3 and 4, figures 1, 3 and A2.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from advtf import runtime
from advtf.attacks.attack import Attack
from advtf.attacks.pgd import fgsm, fgsm_n, pgd
from advtf.classifiers.classifier import Classifier
from advtf.errors import quantity
from advtf.figures.input import input_landscape
from advtf.landscape.input_hessian import require_second_derivatives
from advtf.landscape.inputs import REFERENCE_STEP, InputMeasures, InputMeter
from advtf.landscape.statistics import estimate
from advtf.landscape.twin import twin_classifier
from advtf.settings.threat import format_epsilon
from advtf.storage.cache import ResultCache
from advtf.studies.context import StudyContext

COLUMNS = {"ig": "IG", "hs": "HS", "av": "AV", "effectiveness": "effectiveness", "ga": "GA"}
FIELDS = tuple(field.name for field in dataclasses.fields(InputMeasures))

Splits = dict[str, tuple[np.ndarray, np.ndarray]]


def run(context: StudyContext) -> list[Path]:
    """Writes input.json, input.npz and input.png, and tells the table.

    Measured are `context.x` and, where these are training images, the test images, too. The measures of each
    classifier on each of them are kept as soon as they are made.

    Raises:
        UsageError: a classifier without softplus twin or second derivatives, or a folder with the state of
            another study.
        FloatingPointError: a product with a Hessian is not finite.
    """
    classifiers = _classifiers(context)
    splits = context.splits
    measured = _measured(context, classifiers, splits)
    content = {
        "epsilon": context.epsilon,
        "models": [
            {"name": classifier.name, "splits": {name: each.summary() for name, each in of_model.items()}}
            for classifier, of_model in zip(classifiers, measured, strict=True)
        ],
    }
    for line in _table(context, classifiers, measured):
        context.say(line)
    about = context.about.replaced(attack=_described(context))
    results = context.write_arrays("input", about, **_arrays(context, classifiers, splits, measured))
    record = context.write_json("input", content)
    figure = input_landscape({"": results}, context.folder / "input.png")
    return [record, results, figure]


def _classifiers(context: StudyContext) -> list[Classifier]:
    """Returns the classifiers, each followed by its softplus twin if the settings say so."""
    if not context.settings.softplus_twin:
        return list(context.classifiers)
    return [each for classifier in context.classifiers for each in (classifier, twin_classifier(classifier))]


def _described(context: StudyContext) -> str:
    """Returns the assessed and the reference attack in words."""
    names = {"fgsm": "FGSM", "fgsm_r": "FGSM from a random start", "fgsm_n": "FGSM-N"}
    assessed = names.get(context.settings.assessed_attack, context.about.attack)
    return f"{assessed} relative to PGD-{context.settings.reference_steps}"


def _attack(context: StudyContext) -> Attack:
    norm = context.settings.norm
    others = {
        "fgsm": lambda: fgsm(norm),
        "fgsm_r": lambda: fgsm(norm, "uniform"),
        "fgsm_n": lambda: fgsm_n(norm),
    }
    return others.get(context.settings.assessed_attack, lambda: context.attack)()


def _measured(
    context: StudyContext, classifiers: list[Classifier], splits: Splits
) -> list[dict[str, InputMeasures]]:
    settings = context.settings
    weights = [classifier.parameters.value() for classifier in classifiers]
    images = [part for pair in splits.values() for part in pair]
    cache = context.cache(*weights, *images)
    lengths = [len(y) for _, y in splits.values()]
    total = len(classifiers) * sum(length + min(length, settings.hs_examples) for length in lengths)
    with runtime.progress(total=total, desc="input", unit="image") as shown:
        return [
            _of_classifier(context, classifier, number, splits, cache, shown.update)
            for number, classifier in enumerate(classifiers)
        ]


def _of_classifier(
    context: StudyContext,
    classifier: Classifier,
    number: int,
    splits: Splits,
    cache: ResultCache,
    report: Callable[[int], None],
) -> dict[str, InputMeasures]:
    found, meter = {}, None
    for name, (x, y) in splits.items():
        arrays = cache.get(f"model{number}-{name}")
        if arrays is None:
            meter = meter or _meter(context, classifier, x.shape[1:])
            found[name] = meter(x, y, report)
            cache.put(f"model{number}-{name}", {field: getattr(found[name], field) for field in FIELDS})
        else:
            found[name] = InputMeasures(**arrays)
            report(len(x) + len(found[name].hs))
    return found


def _meter(context: StudyContext, classifier: Classifier, shape: tuple) -> InputMeter:
    settings = context.settings
    if settings.hs_examples:
        require_second_derivatives(classifier.model)
    return InputMeter(
        classifier.logits_fn,
        shape,
        context.epsilon,
        attack=_attack(context),
        reference=pgd(settings.norm, settings.reference_steps, REFERENCE_STEP),
        norm=settings.norm,
        seed=settings.seed,
        batch_size=settings.batch_size,
        eigenvalues=settings.input_eigenvalues,
        hs_examples=settings.hs_examples,
        jit_compile=context.jit_compile,
    )


def _arrays(
    context: StudyContext,
    classifiers: list[Classifier],
    splits: Splits,
    measured: list[dict[str, InputMeasures]],
) -> dict[str, np.ndarray]:
    """Returns ``<split>_<measure>`` (models, images); effectiveness is NaN where an image has none."""
    named = {
        f"{split}_{field}": np.stack([getattr(each[split], field) for each in measured])
        for split in splits
        for field in FIELDS
    }
    for split in splits:
        named[f"{split}_effectiveness"] = np.full_like(named[f"{split}_av"], np.nan)
        for row, each in zip(named[f"{split}_effectiveness"], measured, strict=True):
            row[each[split].assessable] = each[split].effectiveness
    return named | {
        "models": np.array([classifier.name for classifier in classifiers]),
        "splits": np.array(list(splits)),
        "epsilon": np.float64(context.epsilon),
    }


def _table(
    context: StudyContext, classifiers: list[Classifier], measured: list[dict[str, InputMeasures]]
) -> Iterator[str]:
    settings = context.settings
    yield (
        f"Input loss landscape, ε {format_epsilon(context.epsilon)}, {settings.assessed_attack} relative to "
        f"PGD{settings.reference_steps}, mean ± standard error"
    )
    yield "".join(f"{title:>18}" for title in COLUMNS.values()) + "  split  classifier"
    remarks = []
    for classifier, splits in zip(classifiers, measured, strict=True):
        for split, measures in splits.items():
            cells = "".join(f"{estimate(getattr(measures, name))!s:>18}" for name in COLUMNS)
            yield f"{cells}  {split:<5}  {classifier.name}"
            remarks += _remarks(measures, f"{split}, {classifier.name}")
    yield from remarks


def _remarks(measures: InputMeasures, where: str) -> Iterator[str]:
    left_out = np.count_nonzero(~measures.assessable)
    if left_out:
        yield (
            f"{quantity(left_out, 'image')} without an effectiveness, as the reference attack does not raise "
            f"the loss: {where}."
        )
    missing = np.count_nonzero(~measures.converged)
    if missing:
        yield (
            f"{missing} of {len(measures.hs)} spectra have not converged, "
            f"residuals up to {measures.residuals.max():.1g}·max|λ|: {where}."
        )
