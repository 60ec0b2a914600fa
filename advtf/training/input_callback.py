"""The input loss landscape, epoch by epoch (Li & Spratling 2023, figures 1 and 3)."""

import keras
import numpy as np

from advtf.attacks.attack import Attack
from advtf.errors import UsageError, require_whole
from advtf.landscape.input_spectrum import require_second_derivatives
from advtf.landscape.inputs import InputMeter
from advtf.landscape.objective import require_pairs
from advtf.runtime import bfloat16_rewrite
from advtf.training.trainer import full_precision

LOGGED = ("ig", "hs", "av", "effectiveness", "ga")


class InputLandscape(keras.callbacks.Callback):
    """Adds means of the input landscape's measures to the logs of every N-th epoch.

    Of `x` they are called "ig", "hs", "av", "effectiveness" and "ga", of `x_val` the same with "val_" before;
    see `advtf.landscape.inputs.InputMeasures`. Measured in float32 and inference mode, with the same random
    numbers each time; the graphs are built once. A mean over no examples is left out, as hs of 0 examples,
    or effectiveness where the reference attack nowhere raises the loss. List it before the loggers.

    Args:
        x: images float32 (N, H, W, C) in [0, 1], a part of the training images.
        y: labels (N,), integers.
        epsilon: radius ε, in units of the image range.
        attack: whose effectiveness is logged, such as the training's adversary.
        every: N, epochs from one measurement to the next.
        x_val, y_val: validation images, likewise; both or neither.
        classifier: what is measured; by default the ``classifier`` of the trained model, else that model.
        **settings: of `advtf.landscape.inputs.InputMeter`: norm, reference, seed, batch_size, eigenvalues,
            hs_examples, tolerance, max_products, jit_compile.

    Raises:
        UsageError: images without labels, other shapes of the validation images, a setting out of range;
            when training begins, a classifier whose second derivatives are wrong.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        epsilon: float,
        attack: Attack,
        *,
        every: int = 1,
        x_val: np.ndarray | None = None,
        y_val: np.ndarray | None = None,
        classifier: keras.Model | None = None,
        **settings: object,
    ):
        super().__init__()
        require_whole("every", every)
        self.every, self.classifier = every, classifier
        self._sets = {"": _checked(x, y)}
        if x_val is not None or y_val is not None:
            self._sets["val_"] = _checked(x_val, y_val)
            _require_equal_shapes(*(images.shape[1:] for images, _ in self._sets.values()))
        shape = self._sets[""][0].shape[1:]
        self._needs_curvature = settings.get("hs_examples") != 0
        self._meter = InputMeter(self._logits, shape, epsilon, attack=attack, **settings)

    def on_train_begin(self, logs=None):
        if self._needs_curvature:
            require_second_derivatives(self._measured())

    def on_epoch_end(self, epoch, logs=None):
        if logs is None or (epoch + 1) % self.every:
            return
        with bfloat16_rewrite(False):
            for prefix, (x, y) in self._sets.items():
                summary = self._meter(x, y).summary()
                means = {f"{prefix}{name}": summary[name]["mean"] for name in LOGGED}
                logs.update({name: mean for name, mean in means.items() if mean is not None})

    def _measured(self):
        if self.classifier is not None:
            return self.classifier
        return getattr(self.model, "classifier", self.model)

    def _logits(self, x):
        classifier = self._measured()
        with full_precision(classifier):
            return classifier(x, training=False)


def _checked(x, y):
    if x is None or y is None:
        raise UsageError(
            "x_val and y_val must be given together. Received: one of them. Give both or neither."
        )
    require_pairs(x, y)
    return np.asarray(x, np.float32), np.asarray(y, np.int32)


def _require_equal_shapes(first, second):
    if first != second:
        raise UsageError(f"x and x_val must have images of one shape. Received: {first} and {second}.")
