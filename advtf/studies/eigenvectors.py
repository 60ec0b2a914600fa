"""The Hessian of L_ε on fixed adversarial examples, and its top eigenvectors, found or found again.

The studies of similarity and of surfaces move the weights along these vectors; those of the Hessian and of
its density look at the operator itself.
"""

import json
from pathlib import Path

import numpy as np

from advtf import runtime
from advtf.classifiers.classifier import Classifier
from advtf.landscape.hessian import HessianOperator
from advtf.landscape.lanczos import lanczos
from advtf.studies.context import StudyContext

SAVED = ("hessian/hessian", "similarity/eigenvectors", "surface/eigenvectors")
FOUND = 2  # a plane takes two, so the study that comes first finds what the next one needs


class Hessians:
    """∇²θ L_ε of one classifier on its adversarial examples, which are made when they are first needed."""

    def __init__(self, context: StudyContext, classifier: Classifier):
        self._context, self._classifier, self._x_adv = context, classifier, None

    def __call__(self, block: slice | None = None) -> HessianOperator:
        """Returns the operator of all weights, or of a block of them."""
        context = self._context
        if self._x_adv is None:
            self._x_adv = context.adversarial_examples(self._classifier)
        batch_size = context.settings.batch_size
        return HessianOperator(self._classifier, self._x_adv, context.y, batch_size=batch_size, block=block)


def top_eigenvectors(context: StudyContext, number: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the largest eigenvalues of ∇²θ L_ε at a classifier's weights, and their eigenvectors.

    Vectors that a study has left in the folder of the analysis are taken if they are eigenvectors here: one
    product each measures their residuals, so that vectors of other weights, images or attacks are not
    mistaken. Otherwise Lanczos finds them, and `eigenvectors.npz` keeps them in the folder of the study.

    Args:
        context: of the study that moves the weights; the loss is that of its images, attacked with its seed.
        number: index of the classifier in the context.
        count: how many, 1 or 2.

    Returns:
        Eigenvalues (count,) descending, and unit vectors (P, count).
    """
    settings, classifier = context.settings, context.classifiers[number]
    operator = Hessians(context, classifier)()
    suffix = number or ""
    for name in SAVED:
        path = context.folder.parent / f"{name}{suffix}.npz"
        pairs = _saved(path, operator.dimension, count)
        if pairs and _are_eigenpairs(operator, *pairs, settings.eigen_tol):
            context.say(f"Eigenvectors of {path} are used: they are eigenvectors here, too.")
            return pairs
    pairs = _found(context, operator, max(count, min(FOUND, operator.dimension)))
    saved = {"values": pairs.values, "vectors": pairs.vectors, "residuals": pairs.residuals}
    context.write_arrays(f"eigenvectors{suffix}", **saved)
    return pairs.values[:count], pairs.vectors[:, :count]


def _found(context, operator, count):
    settings = context.settings
    with runtime.progress(desc="Hessian", unit="product") as shown:
        pairs = lanczos(
            operator,
            operator.dimension,
            count,
            tolerance=settings.eigen_tol,
            max_products=settings.max_products,
            basis_size=settings.basis_size,
            seed=settings.seed,
            report=lambda products, finished: shown.update(products - shown.n),
        )
    if not pairs.converged.all():
        context.say(
            f"Warning: residuals {', '.join(f'{r:.2g}' for r in pairs.residuals)} of the eigenvectors are "
            f"above the tolerance after {pairs.products} products. Raise --max_products."
        )
    return pairs


def _saved(path: Path, dimension: int, count: int):
    """Returns the largest eigenvalues in a file and their vectors, or None if it does not have them."""
    try:
        if path.parent.name == "hessian":
            record = json.loads((path.parent / "hessian.json").read_text())
            if record["settings"]["eigen_end"] == "smallest":
                return None
        with np.load(path, allow_pickle=False) as file:
            values, vectors = file["values"][:count], file["vectors"][:, :count]
    except Exception:  # there is no such file, or it is damaged; the vectors can be found again
        return None
    return (values, vectors) if values.shape == (count,) and vectors.shape == (dimension, count) else None


def _are_eigenpairs(operator, values, vectors, tolerance):
    """Tells whether each ‖Hv − λv‖₂ is at most 2·tolerance·|λ₁|, twice what a solver allows."""
    return all(
        np.linalg.norm(operator(np.ascontiguousarray(vector)).astype(np.float64) - value * vector)
        <= 2 * tolerance * abs(values[0])
        for value, vector in zip(values, vectors.T, strict=True)
    )
