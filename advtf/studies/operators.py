"""What the studies of weights look at: adversarial examples made once, and the Hessian of L_ε on them."""

import numpy as np

from advtf.classifiers.classifier import Classifier
from advtf.landscape.hessian import HessianOperator
from advtf.landscape.objective import adversarial_examples
from advtf.studies.context import StudyContext


def attacked(
    context: StudyContext, classifier: Classifier, label: str = "adversarial examples"
) -> np.ndarray:
    """Returns the adversarial examples of the study's images against a classifier, (N, H, W, C)."""
    settings = context.settings
    return adversarial_examples(
        classifier,
        context.x,
        context.y,
        context.attack,
        context.epsilon,
        seed=settings.seed,
        batch_size=settings.batch_size,
        jit_compile=context.jit_compile,
        label=label,
    )


class Hessians:
    """∇²θ L_ε of one classifier on its adversarial examples, which are made when first needed."""

    def __init__(self, context: StudyContext, classifier: Classifier):
        self._context, self._classifier, self._x_adv = context, classifier, None

    def __call__(self, block: slice | None = None) -> HessianOperator:
        """Returns the operator of all weights, or of a block of them."""
        if self._x_adv is None:
            self._x_adv = attacked(self._context, self._classifier)
        batches = {"batch_size": self._context.settings.batch_size}
        return HessianOperator(self._classifier, self._x_adv, self._context.y, **batches, block=block)
