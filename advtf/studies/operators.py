"""What the studies of weights look at: adversarial examples made once, and the Hessian of L_ε on them."""

import numpy as np

from advtf.classifiers.subject import Subject
from advtf.landscape.hvp import HessianOperator
from advtf.landscape.objective import adversarial_examples
from advtf.studies.context import StudyContext


def attacked(context: StudyContext, subject: Subject, label: str = "adversarial examples") -> np.ndarray:
    """Returns the adversarial examples of the study's images against a classifier, (N, H, W, C)."""
    settings = context.settings
    return adversarial_examples(
        subject,
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

    def __init__(self, context: StudyContext, subject: Subject):
        self._context, self._subject, self._x_adv = context, subject, None

    def __call__(self, block: slice | None = None) -> HessianOperator:
        """Returns the operator of all weights, or of a block of them."""
        if self._x_adv is None:
            self._x_adv = attacked(self._context, self._subject)
        batches = {"batch_size": self._context.settings.batch_size}
        return HessianOperator(self._subject, self._x_adv, self._context.y, **batches, block=block)
