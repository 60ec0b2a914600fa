"""The study ``surface``: L_ε and the clean loss on a line or a plane through the weights of the first model.

Liu et al. 2020, figure 12.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from advtf import runtime
from advtf.classifiers.classifier import Classifier
from advtf.classifiers.export import TOLERANCE
from advtf.classifiers.parameters import Parameters, filter_normalised, unit_direction
from advtf.errors import UsageError, quantity
from advtf.figures.surface import INSTALL_PLOTLY, has_plotly, interactive_surface, loss_surface
from advtf.landscape.objective import AdversarialObjective
from advtf.landscape.surface import (
    QUANTITIES,
    Surface,
    Weights,
    around,
    between,
    segment_axis,
    surface,
    symmetric_axis,
)
from advtf.settings.threat import format_epsilon
from advtf.studies.context import StudyContext
from advtf.studies.eigenvectors import top_eigenvectors

PROBES = 8  # images on which the models at the ends are compared with themselves
HEADS = {
    "adversarial_loss": "L_ε",
    "robust_error": "error %",
    "clean_loss": "clean L",
    "clean_error": "error %",
}


@dataclass(frozen=True, eq=False)
class Slice:
    """The weights that a scan moves, and where it moves them.

    Attributes:
        parameters: the variables that move.
        vectors: (k, P), the directions, or the weights of the models.
        weights_at: coordinates -> weights (P,).
        axes: coordinates along each direction.
        labels: of the axes, for figures.
        towards: whether there are models at the unit coordinates.
    """

    parameters: Parameters
    vectors: np.ndarray
    weights_at: Weights
    axes: tuple[np.ndarray, ...]
    labels: tuple[str, ...]
    towards: bool = False


def run(context: StudyContext) -> list[Path]:
    """Writes surface.npz, surface.json, surface.png and, where Plotly is installed, surface.html.

    It also tells a table of the losses and errors at the models and at the lowest point.

    Raises:
        UsageError: an even number of points around a model, a model that the first cannot be moved to, or a
            folder with the state of another study.
    """
    classifier, settings = context.classifiers[0], context.settings
    cut = _towards(context) if settings.surface == "towards" else _around(context, classifier)
    objective = AdversarialObjective(
        classifier,
        context.x,
        context.y,
        context.attack,
        context.epsilon,
        seed=settings.seed,
        batch_size=settings.batch_size,
        jit_compile=context.jit_compile,
    )
    found = _scan(context, objective, cut)
    points = _points(found, context.classifiers[: 1 + len(found.axes)] if cut.towards else [classifier])
    for line in _table(found, points, cut, context.epsilon):
        context.say(line)
    grids = {name: getattr(found, name) for name in QUANTITIES}
    arrays = {f"axis{number}": axis for number, axis in enumerate(found.axes)} | grids
    texts = {
        "labels": np.array(cut.labels),
        "model": np.array(classifier.name),
        "towards": np.array(cut.towards),
    }
    texts |= {"epsilon": np.float64(context.epsilon)}
    results = context.write_arrays("surface", **arrays, **texts)
    limits = {name: [np.nanmin(grid), np.nanmax(grid)] for name, grid in grids.items()}
    numbers = {"labels": cut.labels, "axes": found.axes, "examples": found.examples}
    record = context.write_json("surface", numbers | {"points": points, "range": limits})
    picture = loss_surface({"": results}, context.folder / "surface.png")
    if not has_plotly():
        context.say(f"There is no interactive page, as Plotly is not installed. {INSTALL_PLOTLY}")
        return [record, results, picture]
    return [record, results, picture, interactive_surface(results, context.folder / "surface.html")]


def _around(context, classifier) -> Slice:
    settings, parameters = context.settings, classifier.parameters
    axis = symmetric_axis(settings.surface_radius, settings.surface_points)
    count = settings.surface_dims
    if settings.surface == "eigen":
        values, vectors = top_eigenvectors(context, 0, count)
        names = [f"a{_index(k, count)} along eigenvector, λ = {value:.4g}" for k, value in enumerate(values)]
    else:
        vectors = _random_directions(settings.seed, parameters, count)
        names = [f"a{_index(k, count)} along random unit vector" for k in range(count)]
    if settings.surface == "filter":
        vectors = np.stack([filter_normalised(parameters, vector) for vector in vectors.T], axis=1)
        names = [f"a{_index(k, count)} along filter-normalised vector" for k in range(count)]
    weights_at = around(parameters.value(), list(vectors.T))
    return Slice(parameters, vectors.T, weights_at, (axis,) * count, tuple(names))


def _random_directions(seed, parameters, count):
    """Returns orthonormal columns (P, count), uniform on the sphere; the first is the same for any count."""
    columns = np.stack([unit_direction(parameters, seed + k) for k in range(count)], axis=1)
    orthonormal, triangle = np.linalg.qr(columns.astype(np.float64))
    return orthonormal * np.sign(np.diag(triangle))


def _index(k, count):
    return "₁₂"[k] if count > 1 else ""


def _towards(context) -> Slice:
    settings = context.settings
    classifiers = context.classifiers[: 1 + settings.surface_dims]
    parameters = [_everything(classifier) for classifier in classifiers]
    shapes = [[tuple(variable.shape) for variable in part.variables] for part in parameters]
    for classifier, shape in zip(classifiers, shapes, strict=True):
        if shape != shapes[0]:
            raise UsageError(
                f"surface=towards needs models of one architecture. Received: {classifiers[0].name} and "
                f"{classifier.name}, whose variables differ. Give models of equal settings."
            )
    weights = np.stack([part.value() for part in parameters])
    for classifier, vector in zip(classifiers, weights, strict=True):
        with parameters[0].at(vector):
            _require_equal(classifiers[0], classifier, context.x[:PROBES])
    axis = segment_axis(settings.surface_radius, settings.surface_points)
    labels = tuple(
        f"t{_index(k, len(classifiers) - 1)} towards {s.name}" for k, s in enumerate(classifiers[1:])
    )
    return Slice(
        parameters[0], weights, between(weights), (axis,) * (len(classifiers) - 1), labels, towards=True
    )


def _everything(classifier: Classifier) -> Parameters:
    """Returns the weights and, where they can be reached, BatchNorm's running statistics.

    On the way to another model both move in equal shares, so that the end of the way is that model.
    """
    if classifier.model is None:
        return classifier.parameters
    return Parameters([v for v in classifier.model.variables if keras.backend.is_float_dtype(v.dtype)])


def _require_equal(moved, wanted, x):
    found, expected = (np.asarray(classifier.logits_fn(x)) for classifier in (moved, wanted))
    if not np.abs(found - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max()):
        raise UsageError(
            f"surface=towards needs models that differ in their weights only. Received: {moved.name}, which "
            f"does not become {wanted.name} with its weights. Export both with their training configuration."
        )


def _scan(context, objective, cut):
    # The logits depend on all that is not moved, such as BatchNorm's running statistics.
    logits = np.asarray(context.classifiers[0].logits_fn(context.x[:PROBES]))
    cache = context.cache(cut.parameters.value(), cut.vectors, *cut.axes, logits, context.x, context.y)
    with runtime.progress(total=math.prod(map(len, cut.axes)), desc="surface", unit="point") as shown:

        def report(done, _):
            if not shown.n:  # rows of an earlier start say nothing about the speed
                shown.initial = shown.n = done - 1
            shown.update(done - shown.n)

        return surface(objective, cut.parameters, cut.weights_at, cut.axes, cache=cache, report=report)


def _points(found: Surface, classifiers) -> dict[str, dict]:
    """Returns coordinates and values of the models and of the point of the lowest L_ε, by name."""
    coordinates = {classifiers[0].name: (0.0,) * len(found.axes)}
    if len(classifiers) > 1:
        coordinates |= {
            s.name: tuple(unit) for s, unit in zip(classifiers[1:], np.eye(len(found.axes)), strict=True)
        }
    losses = np.where(np.isnan(found.adversarial_loss), np.inf, found.adversarial_loss)
    lowest = np.unravel_index(np.argmin(losses), losses.shape)
    coordinates["lowest L_ε"] = tuple(axis[i] for axis, i in zip(found.axes, lowest, strict=True))
    return {name: {"coordinates": at, **found.at(*at)} for name, at in coordinates.items()}


def _table(found: Surface, points: dict, cut: Slice, epsilon: float) -> Iterator[str]:
    count = " × ".join(str(len(axis)) for axis in found.axes)
    yield f"Surface at {count} points, ε {format_epsilon(epsilon)}, {quantity(found.examples, 'example')}:"
    yield from (
        f"  {label}, from {a[0]:.3g} to {a[-1]:.3g}" for label, a in zip(cut.labels, found.axes, strict=True)
    )
    yield f"{'':<32}" + "".join(f"{head:>12}" for head in HEADS.values())
    for name, values in points.items():
        yield f"{name:<32}" + "".join(f"{values[quantity]:>12.4f}" for quantity in HEADS)
    for name, choose in (("least on the grid", np.nanmin), ("largest on the grid", np.nanmax)):
        yield f"{name:<32}" + "".join(f"{choose(getattr(found, q)):>12.4f}" for q in HEADS)
