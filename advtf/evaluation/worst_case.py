"""A whole evaluation: every attack asked for, the worst case over them, other radii, and the warnings."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from advtf.classifiers.classifier import Classifier
from advtf.errors import UsageError
from advtf.evaluation import sanity_checks as checks
from advtf.evaluation.engine import ComponentRun, Engine
from advtf.evaluation.points import Points
from advtf.evaluation.report import LABELS, AttackResult, ComponentRecord, Evaluation
from advtf.evaluation.settings import BLACK_BOX, AttackSettings, require_classes
from advtf.storage.cache import ResultCache, fingerprint

PROBABILITIES = (
    "The logits attacked are logarithms of probabilities: where a softmax saturates its gradient is zero or "
    "rounded, so errors may be too low. Give the classifier without its softmax if you can."
)


def evaluate_classifier(
    classifier: Classifier,
    x: np.ndarray,
    y: np.ndarray,
    settings: AttackSettings,
    *,
    epsilon_grid: Sequence[float] = (),
    state_dir: str | Path | None = None,
    checked: bool = True,
    say: Callable[[str], None] | None = None,
) -> Evaluation:
    """Evaluates a classifier; `advtf.evaluate.evaluate` with everything checked already.

    Args:
        classifier: what is attacked.
        x, y: images float32 (N, H, W, C) in [0, 1] and labels int32 (N,).
        settings: what determines the numbers.
        epsilon_grid, state_dir, say: as there; `checked` is its `checks`.

    Raises:
        UsageError: attacks that do not fit the classifier, or state of another evaluation.
    """
    require_classes(settings.components, classifier.num_classes)
    _require_gradient(classifier, x, settings)
    engine = Engine(classifier.logits_fn, x, y, classifier.num_classes, settings)
    identity = fingerprint(dataclasses.asdict(settings), x, y, engine.clean_correct)
    engine.cache = ResultCache(state_dir, identity)
    clean = AttackResult(~engine.clean_correct, np.zeros(len(x), bool), engine.clean_loss)
    worst, results, runs = _attack_all(engine, settings, say or (lambda line: None))
    curve = _curve(engine, settings, worst, epsilon_grid)
    warnings = [PROBABILITIES] if classifier.ends_in_softmax else []
    if checked:
        correct = engine.clean_correct
        warnings += checks.warnings_before(classifier.logits_fn, x[correct], y[correct], settings.norm)
    warnings += _warnings_after(runs, len(x))
    return Evaluation(
        model=classifier.name,
        settings=settings,
        clean=clean,
        attacks=results,
        worst_case=_result(engine, worst, ()),
        adversarial=worst.x_adv,
        curve=curve,
        warnings=tuple(warnings),
    )


def _require_gradient(classifier, x, settings):
    if settings.components == (BLACK_BOX,) or checks.is_differentiable(
        classifier.logits_fn, tf.constant(x[:2])
    ):
        return
    raise UsageError(
        f"{classifier.name} must be differentiable with respect to the images for these attacks. "
        f"Received: no gradient. Use --attacks={BLACK_BOX}."
    )


def _attack_all(engine, settings, say):
    worst, results, runs = Points.unattacked(engine.x, engine.clean_loss), {}, []
    say(f"{'clean':<12}{_percent(~engine.clean_correct)} error")
    for name, components in settings.suites.items():
        points, entry_runs = engine.attack(
            name, components, settings.eps, finished=_reporter(engine, say) if len(components) > 1 else None
        )
        worst.update(np.arange(len(engine.x)), points)
        results[name] = result = _result(engine, points, entry_runs)
        runs += entry_runs
        say(f"{LABELS[name]:<12}{_percent(result.wrong)} error   {result.spent.seconds:.1f} s")
    return worst, results, runs


def _reporter(engine, say):
    def finished(run, points):
        wrong = ~engine.clean_correct | points.broken
        say(f"  {LABELS[run.name]:<10}{_percent(wrong)} error so far   {run.spent.seconds:.1f} s")

    return finished


def _percent(wrong):
    return f"{100 * wrong.mean():6.2f} %"


def _result(engine, points, runs):
    records = tuple(
        ComponentRecord(run.name, len(run.rows), int(run.points.broken.sum()), run.spent) for run in runs
    )
    return AttackResult(~engine.clean_correct | points.broken, points.broken, points.loss, records)


def _curve(engine, settings, worst, grid):
    """Robust accuracy in percent by ε; what is found at one ε counts at every larger one."""
    accuracy = {0.0: engine.clean_correct, settings.eps: engine.clean_correct & ~worst.broken}
    everyone, smaller = np.arange(len(engine.x)), Points.unattacked(engine.x, engine.clean_loss)
    for epsilon in sorted(set(map(float, grid)) - accuracy.keys()):
        known = np.flatnonzero(worst.broken & engine.inside(everyone, worst.x_adv, epsilon))
        smaller.update(known, worst.select(known))
        smaller, _ = engine.attack(f"epsilon{epsilon!r}", settings.components, epsilon, start=smaller)
        accuracy[epsilon] = engine.clean_correct & ~smaller.broken
    return {epsilon: 100.0 * float(accuracy[epsilon].mean()) for epsilon in sorted(accuracy)}


def _warnings_after(runs: Sequence[ComponentRun], examples: int) -> list[str]:
    broken = {run.name: np.zeros(examples, bool) for run in runs}
    for run in runs:
        broken[run.name][run.rows[run.points.broken]] = True
    found = [checks.black_box_stronger(broken)]
    for name, count in {run.name: run.withdrawn for run in runs if run.withdrawn}.items():
        found.append(
            f"{count} examples broken by {name} were not counted: the classifier, asked again, was right, or "
            "the point was outside the ball. Its outputs are random, or differ with the batch by rounding."
        )
    return [warning for warning in found if warning]
