"""The study ``hessian``: the ends of the spectrum of ∇²θ L_ε, of the whole classifier and of its layers."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from advtf import runtime
from advtf.errors import quantity
from advtf.figures.hessian import layer_spectra, spectra
from advtf.landscape.eigen import Eigenpairs
from advtf.landscape.hessian import HessianOperator
from advtf.landscape.lanczos import lanczos
from advtf.landscape.power import power_iteration
from advtf.landscape.random_loss import RandomLoss, random_loss
from advtf.landscape.statistics import estimate
from advtf.settings.threat import format_epsilon
from advtf.storage.cache import ResultCache
from advtf.studies.context import StudyContext
from advtf.studies.eigenvectors import Hessians

COLUMNS = 10  # eigenvalues in a line of the table
OF_PAIRS = ("values", "residuals", "converged", "products", "iterations")


def run(context: StudyContext) -> list[Path]:
    """Writes hessian.json, the eigenpairs of the k-th classifier in hessian<k>.npz, and the figures.

    The file of the first classifier is hessian.npz: `values` and `residuals` (k,), `vectors` (P, k). The
    adversarial examples are made once and held fixed. Every solution is kept as soon as it is found.

    Raises:
        UsageError: a classifier that random θ cannot be drawn for, more pairs than parameters, or a folder
            with the state of another study.
        FloatingPointError: a Hessian-vector product is not finite.
    """
    weights = [classifier.parameters.value() for classifier in context.classifiers]
    cache = context.cache(*weights, context.x, context.y)
    scales = [_scale(context, number, cache) for number in range(len(context.classifiers))]
    arrays, models = [], []
    for number, scale in enumerate(scales):
        path, record = _of_classifier(context, number, scale, cache)
        arrays.append(path)
        models.append(record)
        for line in _table(context, record):
            context.say(line)
    content = {"epsilon": context.epsilon, "examples": len(context.x), "models": models}
    results = context.write_json("hessian", content | {"peak_memory_bytes": peak_memory()})
    figures = [spectra({"": results}, context.folder / "hessian.png")]
    if context.settings.per_layer:
        figures.append(layer_spectra(results, context.folder / "hessian_layers.png"))
    return [results, *arrays, *figures]


def peak_memory() -> int:
    """Returns the largest resident size of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _kept(cache: ResultCache, name: str, make: Callable[[], dict]) -> dict[str, np.ndarray]:
    """Returns what `make` returned when it was first called for this name."""
    arrays = cache.get(name)
    if arrays is None:
        arrays = make()
        cache.put(name, arrays)
    return arrays


def _scale(context: StudyContext, number: int, cache: ResultCache) -> RandomLoss | None:
    """Returns L_ε at random θ, by which the eigenvalues are divided; None if they are not to be divided."""
    settings = context.settings
    if settings.normalise_draws == 0:
        return None

    def make():
        compute = {"seed": settings.seed, "batch_size": settings.batch_size}
        compute |= {"draws": settings.normalise_draws, "jit_compile": context.jit_compile}
        data = (context.x, context.y, context.attack, context.epsilon)
        with runtime.progress(total=settings.normalise_draws, desc="loss at random θ", unit="draw") as shown:
            drawn = random_loss(
                context.classifiers[number], *data, **compute, report=lambda done, _: shown.update(1)
            )
        return {"losses": drawn.losses}

    return RandomLoss(_kept(cache, f"random{number}", make)["losses"], len(context.x))


def _of_classifier(
    context: StudyContext, number: int, scale: RandomLoss | None, cache: ResultCache
) -> tuple[Path, dict]:
    """Returns the file of a classifier's eigenpairs, and what the results tell about them."""
    settings, classifier = context.settings, context.classifiers[number]
    operator = Hessians(context, classifier)

    def make():
        whole = operator()
        solved = _solved(context, whole, settings.eigenvalues)
        slope = np.linalg.norm(whole.gradient().astype(np.float64))
        return solved | {"loss": np.float64(whole.loss()), "gradient_norm": np.float64(slope)}

    solved = _kept(cache, f"model{number}", make)
    path = context.write_arrays(
        f"hessian{number or ''}", **{key: solved[key] for key in ("values", "vectors", "residuals")}
    )
    record = {"name": classifier.name, "parameters": classifier.parameters.size} | _record(solved, scale)
    record |= {"loss": float(solved["loss"]), "gradient_norm": float(solved["gradient_norm"])}
    if scale:
        mean = scale.estimate
        record["random_loss"] = {"mean": mean.mean, "standard_error": mean.standard_error}
        record["random_loss"]["losses"] = scale.losses
    if settings.per_layer:
        record["layers"] = list(_layers(context, number, operator, scale, cache))
    return path, record


def _layers(context, number, operator, scale, cache) -> Iterator[dict]:
    for position, (name, block) in enumerate(context.classifiers[number].parameters.blocks().items()):
        size = block.stop - block.start
        count = min(context.settings.eigenvalues, size)

        def make(block=block, count=count, name=name):
            solved = _solved(context, operator(block), count, name)
            del solved["vectors"]
            return solved

        solved = _kept(cache, f"model{number}-layer{position}", make)
        yield {"name": name, "parameters": size} | _record(solved, scale)


def _solved(
    context: StudyContext, operator: HessianOperator, count: int, name: str = "Hessian"
) -> dict[str, np.ndarray]:
    """Returns eigenpairs of an operator as arrays, with the products and seconds spent on them."""
    began = time.monotonic()
    with runtime.progress(desc=name, unit="product") as shown:
        pairs = _eigenpairs(context, operator, count, shown)
    solved = {key: np.asarray(getattr(pairs, key)) for key in (*OF_PAIRS, "vectors")}
    solved["seconds"] = np.float64(time.monotonic() - began)
    return solved


def _eigenpairs(context: StudyContext, operator: HessianOperator, count: int, shown) -> Eigenpairs:
    settings = context.settings

    def report(products, finished):
        shown.set_postfix_str(f"{finished} pairs", refresh=False)
        shown.update(products - shown.n)

    shared = {"tolerance": settings.eigen_tol, "seed": settings.seed, "report": report}
    if settings.eigen_method == "power":
        return power_iteration(operator, operator.dimension, count, **shared)
    both = settings.eigen_end == "both"
    return lanczos(
        operator,
        operator.dimension,
        min(2 * count, operator.dimension) if both else count,
        which=settings.eigen_end,
        max_products=settings.max_products,
        basis_size=settings.basis_size,
        **shared,
    )


def _record(solved: dict[str, np.ndarray], scale: RandomLoss | None) -> dict:
    record = {key: solved[key] for key in (*OF_PAIRS, "seconds")}
    record["normalised"] = solved["values"] / scale.estimate.mean if scale else None
    return record


def _table(context: StudyContext, record: dict) -> Iterator[str]:
    settings, values = context.settings, record["values"]
    end = {"both": "largest and smallest"}.get(settings.eigen_end, settings.eigen_end)
    yield (
        f"{record['name']}: {end} eigenvalues of the Hessian, ε {format_epsilon(context.epsilon)}, "
        f"{quantity(len(context.x), 'image')}, loss {record['loss']:.4g}, "
        f"gradient norm {record['gradient_norm']:.3g}"
    )
    for start in range(0, len(values), COLUMNS):
        yield "".join(f"{value:>10.4g}" for value in values[start : start + COLUMNS])
    largest = np.max(record["residuals"]) / np.abs(values).max()
    yield (
        f"{settings.eigen_method}: {record['products']} products in {record['seconds']:.1f} s, "
        f"residuals up to {largest:.1e} of the largest eigenvalue"
    )
    if "random_loss" in record:
        scale = record["random_loss"]
        first = f"largest normalised: {values[0] / scale['mean']:.4g}"
        yield f"{first}; loss at random θ {estimate(scale['losses'])}"
    for layer in record.get("layers", []):
        yield f"{layer['name']:>32}: {layer['values'][0]:.4g} of {layer['parameters']:,} parameters"
    missing = int(np.sum(~record["converged"]))
    if missing:
        yield (
            f"Warning: {missing} of {len(values)} pairs are not within the tolerance after "
            f"{record['products']} products. Raise --max_products or --eigen_tol."
        )
