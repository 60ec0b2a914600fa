"""The study ``theory``: the theorems of Liu et al. 2020 on linear models, checked on digits.

It needs no model, and no data but the digits of scikit-learn. Budgets are those of the paper, without the
image range [0, 1].
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from advtf import runtime
from advtf.figures import theory as figures
from advtf.figures.results import Conditions
from advtf.theory import claims, constant_classifier, logistic
from advtf.theory.claims import Claim
from advtf.theory.training import TrainedLinear, train_logistic, train_multiclass

if TYPE_CHECKING:
    from advtf.studies.context import StudyContext

NORM = "linf"
CLASSES = 10
# The ε to train for relative to ε̄; they lie on both sides of it, and close to it.
FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.02, 1.05, 1.1, 1.2)
ITERATIONS = 500
PAIR = (0, 1)  # the two digits of logistic regression, which a linear model without bias separates
PAIR_EPSILON = 0.1  # that logistic regression is trained for
SUBSET = 200  # number of examples in checks of every pair of a W and an example
WEIGHTS_PER_MODEL = 8
RADII = np.linspace(0.0, 0.6, 31)
SKETCH = {"x": 1.0, "epsilons": (0.6, 1.2), "theta": np.linspace(-2.0, 2.0, 401)}  # figure 1
DIRECTIONS, POINTS, PAIRS_OF_W = 100, 21, 200
FIGURES = {
    "figure1": figures.kink,
    "proposition1": figures.sets,
    "theorem1": figures.constant_classifier,
    "theorem3": figures.curvature_growth,
}


def run(context: "StudyContext") -> list[Path]:
    """Checks every claim of section 3 and appendix A that can be computed, and tells a table of them.

    Args:
        context: its folder, its `say` and its seed are used.

    Returns:
        theory.json (claims, sweep), theory.npz (curves), and the figures figure1, proposition1, theorem1
        and theorem3 (.png).
    """
    found, arrays, record = _measured(*_digits(), context.settings.seed)
    _say_table(context, found)
    about = Conditions(dataset="digits", images={"train": record["examples"]})
    results = context.write_arrays("theory", about, **arrays)
    described = [dataclasses.asdict(claim) for claim in found]
    summary = context.write_json("theory", {"norm": NORM, "claims": described, "theorem1": record})
    drawn = [draw(results, context.folder / f"{name}.png") for name, draw in FIGURES.items()]
    return [summary, results, *drawn]


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from advtf.data.sets import load

    train = load("digits").train
    return train.images.reshape(len(train), -1).astype(np.float64), train.labels.astype(np.int64)


# The matrices are small: on a busy machine two BLAS threads wait for each other and took 25 times as long.
@threadpool_limits.wrap(limits=1, user_api="blas")
def _measured(x, y, seed) -> tuple[list[Claim], dict[str, np.ndarray], dict]:
    threshold = constant_classifier.threshold(x, y, CLASSES, NORM).upper
    trained = _trained(x, y, threshold, seed)
    multiclass, shares = _multiclass(x, y, trained, threshold, seed)
    binary, curvatures = _binary(x, y, seed)
    sketch, curves = claims.sketch(**SKETCH)
    arrays = {
        **_prefixed("sketch", curves),
        **_prefixed("sets", shares),
        **_prefixed("theorem1", _curves(trained, threshold)),
        **_prefixed("theorem3", curvatures),
    }
    record = {"threshold": threshold, "examples": len(x), "models": [_numbers(model) for model in trained]}
    return [*multiclass, *sketch, *binary], arrays, record


def _trained(x, y, threshold, seed) -> list[TrainedLinear]:
    total = len(FRACTIONS) * ITERATIONS
    with runtime.progress(total=total, desc="theorem 1") as shown:
        options = {"iterations": ITERATIONS, "seed": seed, "report": shown.update}
        return [train_multiclass(x, y, CLASSES, share * threshold, NORM, **options) for share in FRACTIONS]


def _multiclass(x, y, trained, threshold, seed) -> tuple[list[Claim], dict[str, np.ndarray]]:
    """Checks Proposition 1 and Theorem 1."""
    weights = claims.sampled_weights(trained, WEIGHTS_PER_MODEL, seed)
    subset = x[:SUBSET], y[:SUBSET]
    nested, robust = claims.shrinking_version_space(weights, *subset, RADII, NORM)
    directions, origin = claims.growing_directions(weights, x, y, RADII, NORM, threshold=threshold)
    found = [
        *nested,
        *directions,
        *claims.constant_beyond(trained, threshold),
        claims.bound_of_the_proof(trained, *subset, NORM),
    ]
    shares = {"epsilons": RADII, "robust": robust, "origin": origin, "norm": np.array(NORM)}
    return found, shares | {"threshold": np.float64(threshold)}


def _binary(x, y, seed) -> tuple[list[Claim], dict[str, np.ndarray]]:
    """Checks eq. 6, Proposition 2 and Theorem 3 on two digits."""
    chosen = np.isin(y, PAIR)
    x, y = x[chosen], np.where(y[chosen] == PAIR[0], 1.0, -1.0)
    w = train_logistic(x, y, PAIR_EPSILON, NORM, seed=seed)
    directions = logistic.random_directions(DIRECTIONS, x.shape[1], seed)
    grown, arrays = claims.growing_curvature(w, x, y, directions, NORM, POINTS)
    found = [
        claims.closed_form(w, x, y, {"linf": PAIR_EPSILON, "l2": 1.0}, seed),
        claims.bounded_changes(x, y, PAIR_EPSILON, NORM, PAIRS_OF_W, seed),
        *grown,
    ]
    return found, arrays | {"norm": np.array(NORM)}


def _curves(trained, threshold):
    names = ("epsilon", "loss", "loss_bound", "size", "weights")
    curves = {name: np.array([getattr(model, name) for model in trained]) for name in names}
    marks = {"threshold": np.float64(threshold), "log_classes": np.log(CLASSES), "norm": np.array(NORM)}
    return curves | marks


def _prefixed(section, arrays):
    return {f"{section}_{name}": values for name, values in arrays.items()}


def _numbers(model):
    names = ("epsilon", "size", "loss", "loss_bound", "iterations", "last_change")
    return {name: getattr(model, name) for name in names}


def _say_table(context, found: list[Claim]) -> None:
    context.say("Linear models on digits; budgets l∞ without the image range, float64")
    for claim in found:
        context.say(f"{claim.source:<13}{'holds' if claim.holds else 'NO':<7}{claim.statement}")
        context.say(f"{'':<20}{claim.measured}")
