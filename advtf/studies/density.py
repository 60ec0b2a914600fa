"""The study ``density``: the whole spectrum of ∇²θ L_ε, by stochastic Lanczos quadrature."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from advtf import runtime
from advtf.classifiers.classifier import Classifier
from advtf.errors import quantity
from advtf.figures.density import spectral_densities
from advtf.landscape.density import (
    Quadrature,
    SpectralDensity,
    average,
    covering_grid,
    kernel_width,
    quadrature,
    smooth,
    stacked,
)
from advtf.settings.threat import format_epsilon
from advtf.storage.cache import ResultCache
from advtf.studies.context import StudyContext
from advtf.studies.eigenvectors import Hessians


def run(context: StudyContext) -> list[Path]:
    """Writes density.npz, density.json and density.png, and tells the table.

    All classifiers share one kernel width and one grid, so that their densities can be compared. The
    adversarial examples are made once and held fixed. Every probe is kept as soon as it is done.

    Raises:
        UsageError: the folder holds the state of another study.
        FloatingPointError: a Hessian-vector product is not finite.
    """
    densities = _measured(context)
    for line in _table(context, densities):
        context.say(line)
    arrays = dict(zip(("nodes", "weights"), stacked(densities), strict=True))
    results = context.write_arrays("density", **_named(context), **arrays, **_curves(arrays))
    models = [_record(*pair) for pair in zip(context.classifiers, densities, strict=True)]
    content = {"epsilon": context.epsilon, "examples": len(context.x), "models": models}
    record = context.write_json("density", content)
    figure = spectral_densities({"": results}, context.folder / "density.png")
    return [record, results, figure]


def _measured(context: StudyContext) -> list[SpectralDensity]:
    settings, classifiers = context.settings, context.classifiers
    weights = [classifier.parameters.value() for classifier in classifiers]
    cache = context.cache(*weights, context.x, context.y)
    found = []
    total = len(classifiers) * settings.density_probes * settings.density_steps
    with runtime.progress(total=total, desc="density", unit="product") as shown:
        for number, classifier in enumerate(classifiers):
            names = [f"model{number}-probe{probe}" for probe in range(settings.density_probes)]
            found.append(_of_classifier(context, classifier, names, cache, shown))
    return found


def _of_classifier(
    context: StudyContext, classifier: Classifier, names: list[str], cache: ResultCache, shown
) -> SpectralDensity:
    settings, operator, quadratures = context.settings, None, []
    for probe, name in enumerate(names):
        kept = cache.get(name)
        if kept is None:
            operator = operator or Hessians(context, classifier)()

            def product(vector, operator=operator):
                shown.update(1)
                return operator(vector)

            steps = settings.density_steps
            made = quadrature(product, operator.dimension, steps, seed=settings.seed, probe=probe)
            kept = {"nodes": made.nodes, "weights": made.weights}
            cache.put(name, kept)
        else:
            shown.update(len(kept["nodes"]))
        quadratures.append(Quadrature(**kept))
    return average(quadratures, classifier.parameters.size)


def _named(context: StudyContext) -> dict[str, np.ndarray]:
    return {
        "models": np.array([classifier.name for classifier in context.classifiers]),
        "dimensions": np.array([classifier.parameters.size for classifier in context.classifiers]),
        "epsilon": np.float64(context.epsilon),
    }


def _curves(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the densities (models, grid), for readers who plot with something else."""
    width = kernel_width(arrays["nodes"])
    grid = covering_grid(arrays["nodes"], width)
    pairs = zip(arrays["nodes"], arrays["weights"], strict=True)
    densities = [smooth(*pair, grid, width) for pair in pairs]
    return {
        "grid": grid,
        "density": np.stack([density.mean for density in densities]),
        "density_standard_error": np.stack([density.standard_error for density in densities]),
        "kernel_width": np.float64(width),
    }


def _record(classifier: Classifier, density: SpectralDensity) -> dict:
    return {
        "name": classifier.name,
        "parameters": density.dimension,
        "largest_node": density.nodes.max(),
        "smallest_node": density.nodes.min(),
        "trace": density.trace.mean,
        "trace_standard_error": density.trace.standard_error,
        "square_trace": density.square_trace.mean,
        "square_trace_standard_error": density.square_trace.standard_error,
        "products": density.products,
    }


def _table(context: StudyContext, densities: list[SpectralDensity]) -> Iterator[str]:
    settings = context.settings
    yield (
        f"Spectrum of the Hessian, ε {format_epsilon(context.epsilon)}, {quantity(len(context.x), 'image')}, "
        f"{quantity(settings.density_probes, 'probe')} of {settings.density_steps} products"
    )
    yield f"{'largest':>10}{'smallest':>11}{'trace':>20}{'trace of square':>22}  classifier"
    for classifier, density in zip(context.classifiers, densities, strict=True):
        ends = f"{density.nodes.max():>10.4g}{density.nodes.min():>11.3g}"
        yield f"{ends}{density.trace!s:>20}{density.square_trace!s:>22}  {classifier.name}"
