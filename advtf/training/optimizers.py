"""SGD and Adam with the update rules of torch.optim, so that published hyper-parameters keep their meaning.

Two differences from Keras matter. `l2` is added to the gradient, while Keras' `weight_decay` is decoupled.
And the momentum buffer does not contain the learning rate, so that a change of the rate acts at once on the
whole step.
"""

import math

import keras
import tensorflow as tf
from keras import ops

from advtf.errors import UsageError, one_of
from advtf.training.presets import OPTIMIZERS


@keras.saving.register_keras_serializable("advtf")
class SGD(keras.optimizers.SGD):
    """torch.optim.SGD: g += l2·w; b = momentum·b + g; w −= rate·b (Nesterov: w −= rate·(g + momentum·b)).

    Args:
        learning_rate: the rate, a float or a Keras schedule.
        momentum: in [0, 1); 0 keeps no buffer.
        nesterov: whether to use the Nesterov step, which needs momentum > 0.
        l2: coefficient of the L2 term in the gradient, >= 0; torch calls it weight_decay.
        **kwargs: further arguments of keras.optimizers.SGD. Its `weight_decay` is decoupled:
            w −= rate·weight_decay·w.

    Raises:
        UsageError: an argument is out of range, or both l2 and weight_decay are given.
    """

    def __init__(
        self,
        learning_rate: float = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        *,
        l2: float = 0.0,
        **kwargs,
    ):
        _check_between("momentum", momentum, 0.0, 1.0)
        if nesterov and momentum == 0:
            raise UsageError(f"nesterov needs momentum > 0. Received: momentum={momentum}.")
        _check_decay(l2, kwargs.get("weight_decay"))
        super().__init__(learning_rate, momentum=float(momentum), nesterov=nesterov, **kwargs)
        self.l2 = float(l2)

    def update_step(self, gradient, variable, learning_rate):
        """Applies one update to `variable`; Keras calls it after the sum of gradients over replicas."""
        rate = ops.cast(learning_rate, variable.dtype)
        step = _penalised(gradient, variable, self.l2)
        if self.momentum:
            buffer = self.momentums[self._get_variable_index(variable)]
            updated = self.momentum * tf.convert_to_tensor(buffer) + step
            self.assign(buffer, updated)
            step = step + self.momentum * updated if self.nesterov else updated
        self.assign_sub(variable, rate * step)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "l2": self.l2}


@keras.saving.register_keras_serializable("advtf")
class Adam(keras.optimizers.Adam):
    """torch.optim.Adam (Kingma & Ba 2015, Algorithm 1): g += l2·w; w −= rate·m̂ / (√v̂ + epsilon).

    m̂ and v̂ are the bias-corrected moments. Keras puts its epsilon next to the uncorrected √v instead.

    Args:
        learning_rate: the rate, a float or a Keras schedule.
        beta_1, beta_2: the decay of the first and of the second moment, in [0, 1).
        epsilon: is added to √v̂, >= 0.
        amsgrad: whether to use the running maximum of v.
        l2: coefficient of the L2 term in the gradient, >= 0; torch.optim.Adam calls it weight_decay.
        **kwargs: further arguments of keras.optimizers.Adam. Its `weight_decay` is decoupled, as in
            torch.optim.AdamW.

    Raises:
        UsageError: an argument is out of range, or both l2 and weight_decay are given.
    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        amsgrad: bool = False,
        *,
        l2: float = 0.0,
        **kwargs,
    ):
        _check_between("beta_1", beta_1, 0.0, 1.0)
        _check_between("beta_2", beta_2, 0.0, 1.0)
        _check_decay(l2, kwargs.get("weight_decay"))
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, **kwargs)
        self.l2 = float(l2)

    def build(self, variables):
        """Creates the moments, and the iteration of their last reset, where the bias correction begins."""
        if self.built:
            return
        super().build(variables)
        self.slots_zeroed_at = self.add_variable(
            shape=(), dtype="int64", aggregation="only_first_replica", name="slots_zeroed_at"
        )

    def update_step(self, gradient, variable, learning_rate):
        """Applies one update to `variable`; Keras calls it after the sum of gradients over replicas."""
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = _penalised(gradient, variable, self.l2)
        # With gradient accumulation Keras' iterations are a tensor, and count updates instead of batches.
        updates = ops.cast(self.iterations, "int64") - ops.cast(self.slots_zeroed_at, "int64")
        steps = ops.cast(updates + 1, variable.dtype)
        index = self._get_variable_index(variable)
        mean = _averaged(self._momentums[index], gradient, self.beta_1)
        square = _averaged(self._velocities[index], tf.square(gradient), self.beta_2)
        self.assign(self._momentums[index], mean)
        self.assign(self._velocities[index], square)
        if self.amsgrad:
            square = tf.maximum(tf.convert_to_tensor(self._velocity_hats[index]), square)
            self.assign(self._velocity_hats[index], square)
        scale = rate / _bias_correction(self.beta_1, steps)
        root = tf.sqrt(square) * tf.math.rsqrt(_bias_correction(self.beta_2, steps))
        self.assign_sub(variable, scale * mean / (root + self.epsilon))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "l2": self.l2}


def build_optimizer(
    name: str,
    learning_rate: float,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> keras.optimizers.Optimizer:
    """Builds an optimizer from settings named as in torch.optim.

    Args:
        name: `sgd` or `adam`.
        learning_rate: > 0.
        momentum, nesterov: are for `sgd` only; `adam` ignores momentum.
        weight_decay: >= 0; acts on every trainable variable, also on biases and BatchNorm, as in torch.
        decoupled: False adds weight_decay·w to the gradient; True subtracts rate·weight_decay·w from w
            instead.

    Raises:
        UsageError: the name is unknown, a value is out of range, or nesterov is given with `adam`.
    """
    one_of("optimizer", name, OPTIMIZERS)
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise UsageError(
            f"learning rate must be a finite number > 0. Received: learning_rate={learning_rate}."
        )
    _check_between("weight_decay", weight_decay, 0.0, math.inf)
    decay = {"weight_decay": weight_decay or None} if decoupled else {"l2": weight_decay}
    if name == "sgd":
        return SGD(float(learning_rate), momentum, nesterov, **decay)
    if nesterov:
        raise UsageError("nesterov is an option of sgd only. Received: optimizer=adam, nesterov=True.")
    return Adam(float(learning_rate), **decay)


def batches_seen(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """Returns the variable that counts the batches trained on, whether each was an update of its own or not.

    ``optimizer.iterations`` is the same variable, but with gradient accumulation it becomes a tensor that
    counts the updates. Seeds, schedules and checkpoints need the batches.
    """
    return optimizer._iterations


def reset_slots(optimizer: keras.optimizers.Optimizer) -> None:
    """Zeroes the slots (momentum and moments) in place.

    Iterations, the learning rate, weight averages and gradients that are being accumulated stay.

    The bias correction of `Adam` starts anew with its moments. If it counted from the first iteration of the
    run, as in Keras' own Adam, the steps after a reset would be up to 6.6 times too long.

    Raises:
        UsageError: the optimizer is Keras' own Adam or AdamW, which cannot restart its bias correction.
    """
    optimizer = require_resettable(optimizer)
    averages = getattr(optimizer, "_model_variables_moving_average", [])
    pending = getattr(optimizer, "_accumulated_gradients", [])
    kept = {id(v) for v in (optimizer._iterations, optimizer._learning_rate, *averages, *pending)}
    for slot in optimizer.variables:
        if id(slot) not in kept:
            slot.assign(ops.zeros_like(slot))
    if isinstance(optimizer, Adam) and optimizer.built:
        optimizer.slots_zeroed_at.assign(optimizer.iterations)


def require_resettable(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns the optimizer whose slots `reset_slots` zeroes: itself, or the one inside a loss scaler.

    Raises:
        UsageError: it is Keras' own Adam or AdamW.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(optimizer, keras.optimizers.Adam) and not isinstance(optimizer, Adam):
        received = type(optimizer).__name__
        raise UsageError(
            f"slots of Keras' own Adam cannot be reset. Received: {received}. Use advtf's Adam instead."
        )
    return optimizer


def _penalised(gradient, variable, l2: float):
    gradient = ops.cast(gradient, variable.dtype)
    return gradient + l2 * tf.convert_to_tensor(variable) if l2 else gradient


def _averaged(slot, value, decay: float):
    previous = tf.convert_to_tensor(slot)
    return previous + (1 - decay) * (value - previous)


def _bias_correction(decay: float, steps):
    """Returns 1 − decay^steps, whose plain float32 difference is wrong by 1e-5 in the first steps of Adam."""
    return -tf.math.expm1(steps * math.log(decay)) if decay else tf.ones_like(steps)


def _check_between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value < high:
        raise UsageError(f"{name} must lie in [{low:g}, {high:g}). Received: {name}={value}.")


def _check_decay(l2: float, weight_decay: float | None) -> None:
    _check_between("l2", l2, 0.0, math.inf)
    if l2 and weight_decay:
        raise UsageError(
            "L2 and decoupled decay exclude each other; give one. "
            f"Received: l2={l2}, weight_decay={weight_decay}."
        )
