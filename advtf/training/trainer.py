"""The adversarial trainer: a Keras model whose compiled step attacks a batch and then updates the weights.

Read `AdversarialTrainer.train_step` first: unpack, attack, objective, update, record. What it calls follows
below it in that order. `test_step` measures clean and robust accuracy in the same words.
"""

import contextlib
from collections.abc import Callable
from functools import partial

import keras
import tensorflow as tf

from advtf.attacks.attack import Attack
from advtf.attacks.losses import cross_entropy, is_correct
from advtf.errors import UsageError, one_of
from advtf.runtime import true_float32
from advtf.settings.threat import require_radius
from advtf.training.methods import ATTACK_MODES
from advtf.training.objectives import Batch, Objective, adversarial, as_objective, require_exact_derivatives
from advtf.training.weight_perturbation import gradients_at_worst_weights, require_gamma

TRAIN_STREAM, TEST_STREAM = 0, 1  # separate random streams of one run seed


@contextlib.contextmanager
def full_precision(model: keras.Model):
    """Traces `model` in float32 whatever its dtype policy: evaluation is never done in bfloat16."""
    layers = [layer for layer in model._flatten_layers() if layer.compute_dtype != "float32"]
    policies = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = keras.DTypePolicy("float32")
        yield
    finally:
        for layer, policy in zip(layers, policies, strict=True):
            layer.dtype_policy = policy


@keras.saving.register_keras_serializable("advtf")
class AdversarialTrainer(keras.Model):
    """Trains `classifier` on adversarial examples made inside the compiled training step.

    One step attacks the batch with the classifier in inference mode, outside the gradient tape of the
    weights, and then updates the weights once in training mode (Liu et al. 2020, appendix C.1). Validation
    and ``evaluate`` report the loss and the clean and robust accuracy at `eval_epsilon`, whatever the
    scheduled `epsilon` is at that moment.

    Args:
        classifier: a Keras model that maps float32 (B, H, W, C) in [0, 1] to logits (B, K), without softmax.
        attack: ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``, such as ``advtf.pgd(...)``.
        epsilon: the target radius ε in units of the image range [0, 1].
        objective: what is minimised: one of `advtf.training.objectives` or a function with the signature of
            `Objective.losses`.
        clean_view: ``clean_view(x, epsilon, seed)`` returns what the objective sees as the clean images, such
            as ``advtf.attacks.pgd.noisy()`` with FGSM-N; the images themselves if None.
        attack_mode: the mode of the classifier during the attack: "inference", or "training", where BatchNorm
            uses the statistics of the attacked batch and moves its running averages.
        attack_from_gradient: ``attack_from_gradient(logits_fn, x, y, epsilon, gradient) -> x_adv``, what
            `attack` does after its first gradient, see `advtf.attacks.pgd.pgd_from_gradient`. It saves a
            forward pass where the attack is in training mode and starts at the objective's clean images: both
            then share it.
        awp: γ of adversarial weight perturbation (Wu et al. 2020); 0 does without it.
        eval_attack: the attack of validation and evaluation; the training attack if None.
        eval_epsilon: the radius of validation and evaluation; `epsilon` if None.
        seed: determines every random start, together with the number of the step.

    Attributes:
        epsilon: a scalar variable that the training step reads; a schedule assigns it.
        strength: a scalar variable, the share of the objective's strength in force; a schedule may ramp it.
        gradient_norm: a scalar variable, ‖∇θ L̂_ε‖₂ of the last mini-batch.

    Raises:
        UsageError: the classifier ends in a softmax or does not return (B, K), ε is out of range, or two
            arguments contradict each other.
    """

    def __init__(
        self,
        classifier: keras.Model,
        attack: Attack,
        epsilon: float,
        *,
        objective: Objective | Callable = adversarial,
        clean_view: Callable | None = None,
        attack_mode: str = "inference",
        attack_from_gradient: Callable | None = None,
        awp: float = 0.0,
        eval_attack: Attack | None = None,
        eval_epsilon: float | None = None,
        seed: int = 0,
    ):
        super().__init__(name="adversarial_trainer")
        _require_logits(classifier)
        self.classifier = classifier
        self.attack = attack
        self.eval_attack = eval_attack or attack
        self.objective = as_objective(objective)
        if self.objective.second_order:
            require_exact_derivatives(classifier)
        self.clean_view = clean_view
        self.attack_mode = one_of("attack_mode", attack_mode, ATTACK_MODES)
        self.awp = require_gamma(awp)
        self.attack_from_gradient = attack_from_gradient
        if attack_from_gradient and (self.awp or attack_mode == "inference" or self.objective.second_order):
            raise UsageError(
                "attack_from_gradient needs attack_mode=training, no awp and no second-order objective. "
                f"Received: attack_mode={attack_mode}, awp={awp}, second_order={self.objective.second_order}."
            )
        self.seed = int(seed)
        target = require_radius("epsilon", epsilon)
        eval_target = target if eval_epsilon is None else require_radius("eval_epsilon", eval_epsilon)
        self.epsilon = self._scalar("epsilon", target)
        self.eval_epsilon = self._scalar("eval_epsilon", eval_target)
        self.strength = self._scalar("strength", 1.0)
        self.gradient_norm = self._scalar("gradient_norm", 0.0)
        self.clean_accuracy = keras.metrics.Mean(name="clean_accuracy")
        self.robust_accuracy = keras.metrics.Mean(name="robust_accuracy")
        self.built = True

    def _scalar(self, name, value):
        # Every replica assigns the same value, so the mean over replicas is that value.
        return self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(value),
            trainable=False,
            name=name,
            dtype="float32",
            aggregation="mean",
        )

    def call(self, x, training=False):
        """Returns the classifier's logits."""
        return self.classifier(x, training=training)

    def compile(self, optimizer="adam", *, jit_compile="auto", steps_per_execution=1, run_eagerly=False):
        """Sets the optimizer; the objective is the loss, so there is no `loss` or `metrics` argument.

        Args:
            optimizer: a Keras optimizer; `advtf.SGD` and `advtf.Adam` have PyTorch's weight decay.
            jit_compile: "auto" (XLA on one GPU, a plain graph on a CPU and under a strategy), True or False.
            steps_per_execution: must stay 1 where a callback changes ε or the rate within an epoch.
            run_eagerly: gives the same numbers, more slowly, for debugging.
        """
        super().compile(
            optimizer=optimizer,
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
        )
        # If the slots were made inside the first trace, the step would be traced twice.
        self.optimizer.build(self.classifier.trainable_variables)

    def train_step(self, data):
        """Attacks one batch, updates the weights once and returns the running metrics of the epoch.

        The adversarial examples are made before the gradient tape begins, unless the attack and the objective
        share a forward pass. With adversarial weight perturbation the gradients are taken twice.
        """
        x, second_view, y, sample_weight = _unpack(data)
        weights = self.classifier.trainable_variables
        shares_pass = self.attack_from_gradient is not None
        attacked = None if shares_pass else self._attack_batch(x, second_view, y)

        def gradients_and_losses():
            with tf.GradientTape(persistent=shares_pass) as tape:
                if shares_pass:
                    batch, logits_fn = self._attack_batch_on_tape(tape, x, y)
                else:
                    batch, logits_fn = attacked, self._logits_in_training
                losses, accuracies = self.objective.losses(logits_fn, batch)
                losses = losses * sample_weight
                loss = self._mean_over_examples(losses)
            return tape.gradient(loss, weights), losses, accuracies, batch

        if self.awp:
            gradients_and_losses = partial(
                gradients_at_worst_weights, self.classifier, self.awp, gradients_and_losses
            )
        gradients, losses, accuracies, batch = gradients_and_losses()

        self.gradient_norm.assign(tf.linalg.global_norm(_sum_over_replicas(gradients)))
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return self._record(losses, accuracies, x, batch.x_adv, y)

    @true_float32()
    def evaluate(self, *args, **kwargs):
        """Measures the loss and the accuracies as `keras.Model.evaluate` does; `fit` validates by it, too."""
        return super().evaluate(*args, **kwargs)

    @true_float32()
    def test_on_batch(self, *args, **kwargs):
        """Measures one batch as `keras.Model.test_on_batch` does."""
        return super().test_on_batch(*args, **kwargs)

    def test_step(self, data):
        """Measures one batch at `eval_epsilon`, in float32 and inference mode."""
        x, _, y, sample_weight = _unpack(data)
        examples = tf.shape(x)[0]
        x, y = _at_least_one_example(x), _at_least_one_example(y)
        with full_precision(self.classifier):
            # The examples measured so far number the batch: each pass over the data draws the same starts.
            seed = self._seed(TEST_STREAM, self._loss_tracker.count)
            x_adv = self.eval_attack(self._logits_in_inference, x, y, self.eval_epsilon.value, seed)
            logits, adversarial_logits = self._logits_in_inference(x), self._logits_in_inference(x_adv)
        losses = cross_entropy(y, adversarial_logits)[:examples] * sample_weight
        clean = is_correct(y, logits)[:examples]
        # As in RobustError, an attack that mends a wrong prediction does not make the example robust.
        robust = clean * is_correct(y, adversarial_logits)[:examples]
        accuracies = {"clean_accuracy": clean, "robust_accuracy": robust}
        return self._record(losses, accuracies, x, x_adv, y)

    def _attack_batch(self, x, second_view, y) -> Batch:
        """Makes the adversarial examples of one batch, outside any gradient tape."""
        objective, epsilon, seed = self.objective, self.epsilon.value, self._step_seed()
        if objective.second_view:
            second_view = objective.second_view(x, epsilon, _other_seed(seed))
        in_training = self.attack_mode == "training"
        logits_fn = self._logits_in_training if in_training else self._logits_in_inference
        images, labels = x, y
        if second_view is not None:  # both views are attacked in one loop
            images, labels = tf.concat([x, second_view], 0), tf.concat([y, y], 0)
        if objective.attacks:
            if objective.attack_target:
                labels = objective.attack_target(logits_fn, images, labels)
            images = self.attack(logits_fn, images, labels, epsilon, seed)
        x_adv, second_view_adv = (images, None) if second_view is None else tf.split(images, 2)
        clean = self.clean_view(x, epsilon, seed) if self.clean_view else x
        strength = self.strength.value
        return Batch(clean, x_adv, y, epsilon, strength, seed, second_view, second_view_adv)

    def _attack_batch_on_tape(self, tape, x, y) -> tuple[Batch, Callable]:
        """Attacks in training mode, starting from a forward pass that the objective needs as well.

        This is algorithm 1 of Li & Spratling 2023. `tape` records the pass over the clean images once. It
        gives the gradient with respect to the images now, for the first step of the attack, and the gradient
        with respect to the weights later.

        Args:
            tape: a persistent gradient tape that is recording.
            x: images (B, H, W, C).
            y: classes, int32 (B,).

        Returns:
            The batch, and the classifier in training mode, which gives the logits of that pass for `batch.x`.
        """
        epsilon, seed = self.epsilon.value, self._step_seed()
        clean = tf.identity(self.clean_view(x, epsilon, seed) if self.clean_view else x)
        tape.watch(clean)
        clean_logits = self._logits_in_training(clean)
        total = tf.reduce_sum(cross_entropy(y, clean_logits))
        with tape.stop_recording():
            gradient = tape.gradient(total, clean)
            x_adv = self.attack_from_gradient(self._logits_in_training, clean, y, epsilon, gradient)

        def logits_fn(images):
            return clean_logits if images is clean else self._logits_in_training(images)

        return Batch(clean, x_adv, y, epsilon, self.strength.value, seed), logits_fn

    def _logits_in_inference(self, x):
        return self.classifier(x, training=False)

    def _logits_in_training(self, x):
        return self.classifier(x, training=True)

    def _step_seed(self):
        return self._seed(TRAIN_STREAM, self.optimizer.iterations.value)

    def _seed(self, stream, count):
        seed = tf.stack([tf.constant(2 * self.seed + stream, tf.int64), tf.cast(count, tf.int64)])
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            seed = tf.random.experimental.stateless_fold_in(seed, tf.cast(replica, tf.int64))
        return seed

    def _mean_over_examples(self, losses):
        # The optimizer sums the gradients over replicas. The divisor is the number of examples of all
        # replicas, because the last batch need not split evenly.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        (examples,) = _sum_over_replicas([tf.cast(tf.size(losses), losses.dtype)])
        mean = tf.reduce_sum(losses) / examples
        penalties = self.classifier.losses  # the user's own kernel_regularizer and the like
        return mean + tf.add_n(penalties) / replicas if penalties else mean

    def _record(self, losses, accuracies, x, x_adv, y):
        """Adds one batch to the epoch's metrics; an accuracy that the objective did not give is measured."""
        if "clean_accuracy" not in accuracies:
            accuracies["clean_accuracy"] = is_correct(y, self._logits_in_inference(x))
        if "robust_accuracy" not in accuracies:
            accuracies["robust_accuracy"] = is_correct(y, self._logits_in_inference(x_adv))
        self._loss_tracker.update_state(losses)
        self.clean_accuracy.update_state(accuracies["clean_accuracy"])
        self.robust_accuracy.update_state(accuracies["robust_accuracy"])
        return self.get_metrics_result()

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Everything is built already. Under a strategy Keras would draw a batch here, which would then be
        # missing from the training, and a batch that does not split evenly would end the run.
        pass


def _unpack(data):
    """Returns images float32 (B, H, W, C), a second view of them or None, labels int32 (B,), sample weights.

    Raises:
        UsageError: the images are not floating point, or the labels are not one integer per image.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    x, second_view = x if isinstance(x, tuple | list) else (x, None)
    x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
    if not x.dtype.is_floating:
        raise UsageError(
            f"images must be floating point in [0, 1]. Received: dtype {x.dtype.name}. Divide by 255."
        )
    if y.shape.rank not in (None, 1) and y.shape[1:].num_elements() != 1:
        raise UsageError(
            f"labels must be integers (batch,). Received: y of shape {tuple(y.shape)}. "
            "Use argmax(axis=1) of one-hot labels."
        )
    weight = 1.0 if sample_weight is None else tf.cast(tf.reshape(sample_weight, [-1]), tf.float32)
    second_view = None if second_view is None else tf.cast(second_view, tf.float32)
    return tf.cast(x, tf.float32), second_view, tf.cast(tf.reshape(y, [-1]), tf.int32), weight


def _require_logits(classifier: keras.Model) -> None:
    """Refuses a classifier that is not a built Keras model from images to logits."""
    if not isinstance(classifier, keras.Model):
        raise UsageError(
            f"classifier must be a keras.Model from images to logits. Received: {type(classifier).__name__}."
        )
    if not classifier.built:
        raise UsageError(
            "classifier must have its weights. Received: a model that is not built. "
            "Begin it with keras.Input, or call it on one batch."
        )
    shape = getattr(classifier, "output_shape", None)
    if shape is not None and (not isinstance(shape, tuple) or len(shape) != 2):
        raise UsageError(f"classifier must return (batch, classes) logits. Received: output shape {shape}.")
    last = _last_layer(classifier)
    activation = getattr(last, "activation", None)
    if activation is keras.activations.softmax or isinstance(last, keras.layers.Softmax):
        raise UsageError(
            "classifier must return logits: cross-entropy on probabilities hides gradients from attacks. "
            "Received: a model ending in softmax. Build it without the last activation."
        )


def _last_layer(layer):
    while isinstance(layer, keras.Model) and layer.layers:
        layer = layer.layers[-1]
    return layer


def _sum_over_replicas(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the sums of tensors over all replicas; the tensors themselves where there is only one."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return tensors
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def _at_least_one_example(batch: tf.Tensor) -> tf.Tensor:
    """Adds an example of zeros where a replica got nothing of a short last batch: convolutions need one."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return batch
    missing = tf.maximum(1 - tf.shape(batch)[0], 0)
    return tf.pad(batch, [[0, missing]] + [[0, 0]] * (batch.shape.rank - 1))


def _other_seed(seed):
    return tf.random.experimental.stateless_fold_in(seed, tf.constant(1, tf.int64), alg="philox")
