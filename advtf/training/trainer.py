"""The adversarial trainer: a Keras model whose compiled steps attack, then update or measure."""

import contextlib
from collections.abc import Callable
from functools import partial

import keras
import tensorflow as tf

from advtf.attacks.losses import cross_entropy, is_correct
from advtf.attacks.pgd import Attack
from advtf.errors import UsageError, one_of
from advtf.training.objectives import Batch, Objective, adversarial, as_objective, require_exact_derivatives
from advtf.training.replicas import never_empty, summed_over_replicas
from advtf.training.requirements import require_logits, require_radius, unpack
from advtf.training.shared_pass import attacked_on_tape
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

    One step (Liu et al. 2020, appendix C.1): attack the batch with the classifier in inference mode, outside
    the weight tape; then one weight update in training mode. Validation and ``evaluate`` report loss, clean
    and robust accuracy at `eval_epsilon`, whatever the scheduled `epsilon` is at that moment.

    Args:
        classifier: Keras model, float32 (B, H, W, C) in [0, 1] -> (B, K) logits (no softmax).
        attack: ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``, such as ``advtf.pgd(...)``.
        epsilon: target radius ε in units of the image range [0, 1].
        objective: what is minimised, see `advtf.training.objectives`; also a plain function.
        clean_view: ``clean_view(x, epsilon, seed)`` -> what the objective sees as clean images, such as
            ``advtf.attacks.pgd.noisy()`` with FGSM-N; the images themselves if None.
        attack_mode: "inference", or "training": BatchNorm uses the attacked batch's statistics and moves.
        onwards: `attack` from its first gradient, see `advtf.attacks.pgd.pgd_onwards`, where that is taken in
            training mode at the objective's clean images: both then share that forward pass.
        awp: γ of adversarial weight perturbation; 0 does without.
        eval_attack: attack of validation and evaluation; the training attack if None.
        eval_epsilon: radius of validation and evaluation; `epsilon` if None.
        seed: with the step number, the source of every random start.

    Attributes:
        epsilon: scalar variable read by the training step; a schedule assigns it.
        strength: scalar variable, the share of the objective's strength in force; a schedule may ramp it.
        gradient_norm: scalar variable, ‖∇θ L̂_ε‖₂ of the last mini-batch.

    Raises:
        UsageError: the classifier ends in a softmax or is not (B, H, W, C) -> (B, K), or ε is out of range.
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
        onwards: Callable | None = None,
        awp: float = 0.0,
        eval_attack: Attack | None = None,
        eval_epsilon: float | None = None,
        seed: int = 0,
    ):
        super().__init__(name="adversarial_trainer")
        require_logits(classifier)
        self.classifier = classifier
        self.attack = attack
        self.eval_attack = eval_attack or attack
        self.objective = as_objective(objective)
        if self.objective.second_order:
            require_exact_derivatives(classifier)
        self.clean_view = clean_view
        self.attack_mode = one_of("attack_mode", attack_mode, ("inference", "training"))
        self.awp = require_gamma(awp)
        self.onwards = onwards
        if onwards and (self.awp or attack_mode == "inference" or self.objective.second_order):
            raise UsageError(
                "onwards needs attack_mode=training, no awp and no objective with input gradients. "
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
            optimizer: Keras optimizer; `advtf.SGD` and `advtf.Adam` have PyTorch's weight-decay semantics.
            jit_compile: "auto" (XLA on one GPU, plain graph on CPU and under a strategy), True or False.
            steps_per_execution: leave at 1 when a callback changes ε or the rate within an epoch.
            run_eagerly: for debugging; the same numbers, slower.
        """
        super().compile(
            optimizer=optimizer,
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
        )
        # Slots made inside the first trace would trace the step twice.
        self.optimizer.build(self.classifier.trainable_variables)

    def train_step(self, data):
        """One attack and one weight update; returns the running epoch metrics."""
        x, neighbor, y, sample_weight = unpack(data)
        attacked = None if self.onwards else self._attacked(x, neighbor, y)
        weights = self.classifier.trainable_variables

        def step():
            with tf.GradientTape(persistent=bool(self.onwards)) as tape:
                batch, logits_fn = (
                    self._attacked_on(tape, x, y) if self.onwards else (attacked, self._training)
                )
                losses, accuracies = self.objective.losses(logits_fn, batch)
                losses = losses * sample_weight
                loss = self._global_mean(losses)
            return tape.gradient(loss, weights), losses, accuracies, batch

        if self.awp:
            step = partial(gradients_at_worst_weights, self.classifier, self.awp, step)
        gradients, losses, accuracies, batch = step()
        self.gradient_norm.assign(tf.linalg.global_norm(summed_over_replicas(gradients)))
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return self._record(losses, accuracies, x, batch.x_adv, y)

    def _attacked(self, x, neighbor, y) -> Batch:
        """Makes the adversarial examples of one batch, outside any tape."""
        objective, epsilon, seed = self.objective, self.epsilon.value, self._step_seed()
        if objective.neighbor:
            neighbor = objective.neighbor(x, epsilon, _other(seed))
        logits_fn = self._training if self.attack_mode == "training" else self._inference
        # Both views climb in one loop.
        views, labels = (x, y) if neighbor is None else (tf.concat([x, neighbor], 0), tf.concat([y, y], 0))
        if objective.attacks:
            aim = objective.aim(logits_fn, views, labels) if objective.aim else labels
            views = self.attack(logits_fn, views, aim, epsilon, seed)
        x_adv, neighbor_adv = (views, None) if neighbor is None else tf.split(views, 2)
        clean = self.clean_view(x, epsilon, seed) if self.clean_view else x
        return Batch(clean, x_adv, y, epsilon, self.strength.value, seed, neighbor, neighbor_adv)

    def _attacked_on(self, tape, x, y):
        """As `_attacked`, on the tape of the weights; also returns the logits function of the objective."""
        epsilon, seed = self.epsilon.value, self._step_seed()
        clean = tf.identity(self.clean_view(x, epsilon, seed) if self.clean_view else x)
        x_adv, logits_fn = attacked_on_tape(tape, self._training, self.onwards, clean, y, epsilon)
        return Batch(clean, x_adv, y, epsilon, self.strength.value, seed), logits_fn

    def test_step(self, data):
        """Measures one batch at `eval_epsilon`, in float32 and inference mode."""
        x, _, y, sample_weight = unpack(data)
        examples = tf.shape(x)[0]
        x, y = never_empty(x), never_empty(y)
        with full_precision(self.classifier):
            # The examples measured so far number the batch: each pass over the data draws the same starts.
            seed = self._seed(TEST_STREAM, self._loss_tracker.count)
            x_adv = self.eval_attack(self._inference, x, y, self.eval_epsilon.value, seed)
            logits, adversarial_logits = self._inference(x), self._inference(x_adv)
        losses = cross_entropy(y, adversarial_logits)[:examples] * sample_weight
        clean = is_correct(y, logits)[:examples]
        # As in RobustError: an attack that mends a wrong prediction does not make the example robust.
        robust = clean * is_correct(y, adversarial_logits)[:examples]
        accuracies = {"clean_accuracy": clean, "robust_accuracy": robust}
        return self._record(losses, accuracies, x, x_adv, y)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Everything is built already. Under a strategy Keras would draw a batch here: it would be lost to the
        # training stream, and one that does not split evenly would end the run.
        pass

    def _inference(self, x):
        return self.classifier(x, training=False)

    def _training(self, x):
        return self.classifier(x, training=True)

    def _step_seed(self):
        return self._seed(TRAIN_STREAM, self.optimizer.iterations.value)

    def _seed(self, stream, count):
        seed = tf.stack([tf.constant(2 * self.seed + stream, tf.int64), tf.cast(count, tf.int64)])
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            seed = tf.random.experimental.stateless_fold_in(seed, tf.cast(replica, tf.int64))
        return seed

    def _global_mean(self, losses):
        # The optimizer sums gradients over replicas: divide by the examples of all of them, since a last
        # batch need not split evenly.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        (examples,) = summed_over_replicas([tf.cast(tf.size(losses), losses.dtype)])
        mean = tf.reduce_sum(losses) / examples
        penalties = self.classifier.losses  # the user's own kernel_regularizer and the like
        return mean + tf.add_n(penalties) / replicas if penalties else mean

    def _record(self, losses, accuracies, x, x_adv, y):
        if "clean_accuracy" not in accuracies:
            accuracies["clean_accuracy"] = is_correct(y, self._inference(x))
        if "robust_accuracy" not in accuracies:
            accuracies["robust_accuracy"] = is_correct(y, self._inference(x_adv))
        self._loss_tracker.update_state(losses)
        self.clean_accuracy.update_state(accuracies["clean_accuracy"])
        self.robust_accuracy.update_state(accuracies["robust_accuracy"])
        return self.get_metrics_result()


def _other(seed):
    return tf.random.experimental.stateless_fold_in(seed, tf.constant(1, tf.int64), alg="philox")
