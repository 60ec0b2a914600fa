"""The adversarial trainer: a Keras model whose compiled step attacks a batch and then updates the weights.

Read `AdversarialTrainer.train_step` first: unpack, attack, objective, update, record. What it calls follows
below it in that order. `test_step` measures clean and robust accuracy in the same words. After the steps come
the methods of Keras that look at their data first (`fit`, `evaluate`, `predict`), and those that save.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import keras
import tensorflow as tf

from advtf.attacks.attack import Attack, input_gradient_and_logits
from advtf.attacks.losses import cross_entropy, is_correct, kl_divergence
from advtf.attacks.random import fold_in, seed_of_rows
from advtf.data.arrays import to_unit_float
from advtf.errors import UsageError, one_of
from advtf.models.folding import folded, gains_from_halves, in_halves
from advtf.runtime import is_multi_worker, true_float32
from advtf.settings.threat import NORMS, read_radius
from advtf.storage.builders import builder_call, is_known, serialized
from advtf.training.checks import (
    checked,
    ready_callbacks,
    reported,
    require_class_weight,
    require_logits_shape,
)
from advtf.training.image_metrics import ImageMetrics
from advtf.training.methods import ATTACK_MODES
from advtf.training.objectives import Batch, Objective, adversarial, as_objective, require_exact_derivatives
from advtf.training.optimizers import batches_seen
from advtf.training.weight_perturbation import gradients_at_worst_weights, require_gamma

TRAIN_STREAM, TEST_STREAM = 0, 1  # separate random streams of one run seed
MEASURED_IMAGES = 32  # of a training batch, where its clean accuracy takes a pass of its own


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
    weights, and then updates the weights once in training mode (Liu et al. 2020, appendix C.1). The clean
    accuracy of an epoch is that of the first 32 images of each batch, unless the objective or the first
    gradient of the attack looks at all clean images anyway, or `compile` is given metrics. Validation and
    ``evaluate`` report the loss and the clean and robust accuracy at `eval_epsilon`, whatever the scheduled
    `epsilon` is at that moment.

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
            `attack` does after its first gradient, for an attack on the classes that starts at the
            objective's clean images, see `advtf.attacks.pgd.pgd_from_gradient`. The trainer then makes the
            first pass itself. In training mode the objective shares it, in inference mode the clean accuracy.
        awp: γ of adversarial weight perturbation (Wu et al. 2020); 0 does without it.
        eval_attack: the attack of validation and evaluation; the training attack if None.
        eval_epsilon: the radius of validation and evaluation; `epsilon` if None.
        seed: determines every random start, together with the number of the step and the row in the batch of
            all devices, so that a strategy changes none of them.

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
        if self.objective.attack_target:
            _require_targets(attack, eval_attack)
        self.clean_view = clean_view
        self.attack_mode = one_of("attack_mode", attack_mode, ATTACK_MODES)
        self.awp = require_gamma(awp)
        self.attack_from_gradient = attack_from_gradient
        if attack_from_gradient:
            self._require_attack_from_clean_images()
        self.seed = int(seed)
        target = read_radius("epsilon", epsilon, norm_of(attack))
        if eval_epsilon is not None:
            eval_epsilon = read_radius("eval_epsilon", eval_epsilon, norm_of(self.eval_attack))
        self._targets = target, eval_epsilon
        self.epsilon = self._scalar("epsilon", target)
        self.eval_epsilon = self._scalar("eval_epsilon", target if eval_epsilon is None else eval_epsilon)
        self.strength = self._scalar("strength", 1.0)
        self.gradient_norm = self._scalar("gradient_norm", 0.0)
        self.clean_accuracy = keras.metrics.Mean(name="clean_accuracy")
        self.robust_accuracy = keras.metrics.Mean(name="robust_accuracy")
        self.built = True

    def _require_attack_from_clean_images(self):
        """Refuses `attack_from_gradient` where the trainer cannot make the attack's first pass."""
        objective, in_training = self.objective, self.attack_mode == "training"
        hindrances = {
            "awp": self.awp and in_training,
            "a second-order objective": objective.second_order and in_training,
            "clean_view with attack_mode=inference": self.clean_view and not in_training,
            "an objective with a second view": objective.second_view or objective.views > 1,
            "an objective with a target of its own for the attack": objective.attack_target,
        }
        found = [name for name, present in hindrances.items() if present]
        if found:
            raise UsageError(
                "attack_from_gradient needs an attack on the classes of one view of the images, whose first "
                f"pass is at the objective's clean images. Received: {', '.join(found)}."
            )

    @property
    def _shares_pass(self) -> bool:
        """Whether attack and objective share their pass over the clean images, on the tape of the weights."""
        if self.attack_mode != "training" or self.awp or self.objective.second_order:
            return False
        if self.attack_from_gradient:
            return True
        one_view = self.objective.views == 1 and not self.objective.second_view
        return bool(self.objective.attack_target) and one_view and not self.clean_view

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
        """Returns the classifier's logits of images in [0, 1], or uint8, which are divided by 255."""
        if keras.backend.standardize_dtype(x.dtype) == "uint8":
            x = keras.ops.cast(x, "float32") / 255.0
        return self.classifier(x, training=training)

    def compile(
        self,
        optimizer="adam",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        run_eagerly=False,
        steps_per_execution=1,
        jit_compile="auto",
    ):
        """Sets the optimizer and what is measured besides the loss and the two accuracies.

        Args:
            optimizer: a Keras optimizer or its name; `advtf.SGD` and `advtf.Adam` have PyTorch's weight
                decay. With ``gradient_accumulation_steps=k`` every k-th batch is an update, by the mean
                gradient.
            loss, loss_weights: must be None, because the objective is the loss.
            metrics: sparse metrics of Keras, such as "sparse_top_k_categorical_accuracy", or functions
                ``(y, logits) -> (B,)``. Each is measured on the clean images as ``clean_<name>`` and on the
                attacked ones as ``robust_<name>``, in inference mode, during training after the update, which
                costs up to two more forward passes.
            weighted_metrics: the same, weighted by the sample weights.
            run_eagerly: gives the same numbers, more slowly, for debugging.
            steps_per_execution: must stay 1 where a callback changes ε or the rate within an epoch.
            jit_compile: "auto" (XLA on one GPU, a plain graph on a CPU and under a strategy), True or False.

        Raises:
            UsageError: a loss is given, a metric does not fit class numbers and logits, the optimizer or the
                classifier is for float16, or Keras fails with these settings under a strategy.
        """
        if loss is not None or loss_weights is not None:
            raise UsageError(
                "the objective of a trainer is its loss. Received: a loss in compile. Give "
                "AdversarialTrainer(..., objective=...) a function of (logits_fn, batch), or leave it out."
            )
        self._image_metrics = ImageMetrics(metrics, weighted_metrics)
        optimizer = keras.optimizers.get(optimizer)
        _require_no_float16(self.classifier, optimizer)
        accumulated = getattr(optimizer, "gradient_accumulation_steps", None) or 1
        if max(accumulated, steps_per_execution) > 1 and self._distribute_strategy:
            raise UsageError(
                "gradient_accumulation_steps and steps_per_execution work without a strategy only. "
                f"Received: {accumulated} and {steps_per_execution} under a strategy, where Keras fails. "
                "Leave them out."
            )
        super().compile(
            optimizer=optimizer,
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
            auto_scale_loss=False,
        )
        self._compiled_with = MappingProxyType(
            {
                "optimizer": self.optimizer,
                "metrics": metrics,
                "weighted_metrics": weighted_metrics,
                "run_eagerly": run_eagerly,
                "steps_per_execution": steps_per_execution,
                "jit_compile": jit_compile,  # as given: "auto" may mean something else where it is loaded
            }
        )  # Keras would track a dictionary, and the metrics in it
        # If the slots were made inside the first trace, the step would be traced twice.
        self.optimizer.build(self.classifier.trainable_variables)
        self._optimized = frozenset(map(id, self.classifier.trainable_variables))

    def train_step(self, data):
        """Attacks one batch, updates the weights once and returns the running metrics of the epoch.

        The adversarial examples are made before the gradient tape begins, unless the attack and the objective
        share a forward pass. With adversarial weight perturbation the gradients are taken twice.
        """
        x, second_view, y, sample_weight = _unpack(data)
        weights = self.classifier.trainable_variables
        rows = _rows_of(x)
        seed = self._seed(TRAIN_STREAM, batches_seen(self.optimizer).value, rows)
        shares_pass = self._shares_pass
        attacked, clean = None, {}
        if not shares_pass:
            attacked, clean = self._attack_batch(x, second_view, y, seed)

        def gradients_and_losses():
            with tf.GradientTape(persistent=shares_pass) as tape:
                if shares_pass:
                    batch, logits_fn = self._attack_batch_on_tape(tape, x, y, seed)
                else:
                    batch, logits_fn = attacked, self._logits_in_training
                losses, accuracies = self.objective.losses(logits_fn, batch)
                losses = _weighted(losses, sample_weight)
                loss = self._mean_over_examples(losses, rows.total)
            return tape.gradient(loss, weights), losses, accuracies, batch

        if self.awp:
            gradients_and_losses = partial(
                gradients_at_worst_weights, self.classifier, self.awp, gradients_and_losses
            )
        gradients, losses, accuracies, batch = gradients_and_losses()

        self.gradient_norm.assign(tf.linalg.global_norm(_sum_over_replicas(gradients)))
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return self._record(losses, clean | accuracies, x, batch.x_adv, y, sample_weight, rows)

    def test_step(self, data):
        """Measures one batch at `eval_epsilon`, in float32 and inference mode."""
        x, _, y, sample_weight = _unpack(data)
        examples, rows = tf.shape(x)[0], _rows_of(x)
        x, y = _at_least_one_example(x), _at_least_one_example(y)
        with full_precision(self.classifier):
            # The examples measured so far number the batch: each pass over the data draws the same starts.
            # A copy, because several workers cannot add up what a variable gives without a device.
            (seen,) = _sum_over_replicas([tf.identity(self._loss_tracker.count)])
            seed = self._seed(TEST_STREAM, seen, rows)
            x_adv = self.eval_attack(self._attack_view(), x, y, self.eval_epsilon.value, seed)
            logits, adversarial_logits = self._logits_in_inference(x), self._logits_in_inference(x_adv)
        losses = _weighted(cross_entropy(y, adversarial_logits)[:examples], sample_weight)
        clean = is_correct(y, logits)[:examples]
        # As in RobustError, an attack that mends a wrong prediction does not make the example robust.
        robust = clean * is_correct(y, adversarial_logits)[:examples]
        self._measure(losses, clean, robust)
        self._image_metrics.update(
            y[:examples], logits[:examples], adversarial_logits[:examples], sample_weight
        )
        return self._logs()

    def _attack_batch(self, x, second_view, y, seed) -> tuple[Batch, dict[str, tf.Tensor]]:
        """Makes the adversarial examples of one batch, outside any gradient tape.

        Returns:
            The batch, and the clean accuracy (B,) under its name where the attack came by it.
        """
        objective, epsilon = self.objective, self.epsilon.value
        if objective.second_view:
            second_view = objective.second_view(x, epsilon, fold_in(seed, 1))
        in_training = self.attack_mode == "training"
        logits_fn = self._logits_in_training if in_training else self._attack_view()
        images, labels = x, y
        if second_view is not None:  # both views are attacked in one loop
            images, labels = tf.concat([x, second_view], 0), tf.concat([y, y], 0)
        accuracies = {}
        if objective.attacks and self.attack_from_gradient:
            gradient, logits = input_gradient_and_logits(logits_fn, images, labels)
            accuracies["clean_accuracy"] = is_correct(y, logits)
            images = self.attack_from_gradient(logits_fn, images, labels, epsilon, gradient)
        elif objective.attacks:
            if objective.attack_target:
                labels = objective.attack_target(logits_fn, images, labels)
            images = self.attack(logits_fn, images, labels, epsilon, seed)
        x_adv, second_view_adv = (images, None) if second_view is None else tf.split(images, 2)
        clean = self.clean_view(x, epsilon, seed) if self.clean_view else x
        strength = self.strength.value
        return Batch(clean, x_adv, y, epsilon, strength, seed, second_view, second_view_adv), accuracies

    def _attack_batch_on_tape(self, tape, x, y, seed) -> tuple[Batch, Callable]:
        """Attacks in training mode with a pass over the clean images that the objective needs as well.

        `tape` records that pass once. It gives the gradient with respect to the weights later and, before
        the attack, either the first gradient with respect to the images (algorithm 1 of Li & Spratling 2023)
        or what the attack compares its logits with (TRADES).

        Args:
            tape: a persistent gradient tape that is recording.
            x: images (B, H, W, C).
            y: classes, int32 (B,).
            seed: the seed of the step.

        Returns:
            The batch, and the classifier in training mode, which gives the logits of that pass for `batch.x`.
        """
        epsilon, objective = self.epsilon.value, self.objective
        clean = tf.identity(self.clean_view(x, epsilon, seed) if self.clean_view else x)
        tape.watch(clean)
        clean_logits = self._logits_in_training(clean)

        def logits_fn(images):
            return clean_logits if images is clean else self._logits_in_training(images)

        if objective.attack_target:
            target = objective.attack_target(logits_fn, clean, y)
            with tape.stop_recording():
                x_adv = self.attack(self._logits_in_training, clean, target, epsilon, seed)
        else:
            total = tf.reduce_sum(cross_entropy(y, clean_logits))
            with tape.stop_recording():
                gradient = tape.gradient(total, clean)
                x_adv = self.attack_from_gradient(self._logits_in_training, clean, y, epsilon, gradient)
        return Batch(clean, x_adv, y, epsilon, self.strength.value, seed), logits_fn

    def _attack_view(self):
        """Returns the classifier in inference mode with the weights of now, for the attack of one step."""
        logits_fn = folded(self.classifier)
        return in_halves(logits_fn) if gains_from_halves(self.classifier) else logits_fn

    def _logits_in_inference(self, x):
        return self.classifier(x, training=False)

    def _logits_in_training(self, x):
        return self.classifier(x, training=True)

    def _seed(self, stream, count, rows):
        seed = tf.stack([tf.constant(2 * self.seed + stream, tf.int64), tf.cast(count, tf.int64)])
        return seed if rows.whole else seed_of_rows(seed, rows.first, rows.count, rows.total)

    def _mean_over_examples(self, losses, examples):
        # The optimizer sums the gradients over replicas. The divisor is the number of examples of all
        # replicas, because the last batch need not split evenly.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        mean = tf.reduce_sum(losses) / tf.cast(examples, losses.dtype)
        penalties = self.classifier.losses  # the user's own kernel_regularizer and the like
        return mean + tf.add_n(penalties) / replicas if penalties else mean

    def _record(self, losses, accuracies, x, x_adv, y, sample_weight, rows):
        """Adds one training batch to the epoch's metrics; what the objective did not give is measured.

        Most objectives do not look at the clean images, and a pass over all of them would take up to a third
        of the time of a single-step adversary. The clean accuracy is then that of the first images of each
        batch, which are a random sample of the epoch's.
        """
        measures_more = bool(self._image_metrics.all)
        measured = None if measures_more else rows.among_first(MEASURED_IMAGES)
        logits = adversarial_logits = None
        if measures_more or "clean_accuracy" not in accuracies:
            logits = self._logits_in_inference(_at_least_one_example(x[:measured]))[:measured]
        if measures_more or "robust_accuracy" not in accuracies:
            adversarial_logits = self._logits_in_inference(x_adv)
        clean = accuracies.get("clean_accuracy")
        robust = accuracies.get("robust_accuracy")
        self._measure(
            losses,
            is_correct(y[:measured], logits) if clean is None else clean,
            is_correct(y, adversarial_logits) if robust is None else robust,
        )
        self._image_metrics.update(y, logits, adversarial_logits, sample_weight)
        return self._logs()

    def _logs(self):
        results = self.get_metrics_result()
        if is_multi_worker(self.distribute_strategy):
            # Keras takes the mean of the workers' results over an axis, which numbers do not have.
            return {name: tf.reshape(result, [1]) for name, result in results.items()}
        return results

    def _measure(self, losses, clean, robust):
        self._loss_tracker.update_state(losses)
        self.clean_accuracy.update_state(clean)
        self.robust_accuracy.update_state(robust)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Everything is built already. Under a strategy Keras would draw a batch here, which would then be
        # missing from the training, and a batch that does not split evenly would end the run.
        pass

    @property
    def metrics(self):
        """The running metrics: loss, clean and robust accuracy, and those of `compile`."""
        return [*super().metrics, *(self._image_metrics.all if self.compiled else [])]

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        **settings,
    ):
        """Trains as `keras.Model.fit` does, after `advtf.training.checks` has looked at the data.

        Args:
            x: images (N, H, W, C), uint8 or float in [0, 1], or a source of batches, as Keras takes them.
            y: classes, integers (N,).
            batch_size, epochs, verbose, validation_split, shuffle: as in Keras.
            callbacks: any of Keras or `advtf`. A loss that is not finite ends the training with an error.
            validation_data: is attacked at `eval_epsilon` after every epoch.
            class_weight, sample_weight: numbers of at least 0 that multiply the losses.
            **settings: the further arguments of `keras.Model.fit`.

        Returns:
            The `keras.callbacks.History` of the metrics.

        Raises:
            UsageError: the data, the weights or a callback do not fit this trainer; before the first step.
            NonFiniteLoss: the loss became NaN or infinite.
        """
        if self.compiled:  # else Keras says so
            validates = validation_data is not None or validation_split > 0
            callbacks = self._ready(callbacks, class_weight, validates)
            x = checked((x, y, sample_weight), self.classifier, (self.objective.views,))
            validation_data = self._checked_validation(validation_data)
        with reported():
            return super().fit(
                x,
                y,
                batch_size,
                epochs,
                verbose,
                callbacks,
                validation_split,
                validation_data,
                shuffle,
                class_weight,
                sample_weight,
                **settings,
            )

    def _ready(self, callbacks, class_weight, validates):
        weights = self.classifier.trainable_variables
        if not self._optimized.issuperset(map(id, weights)):
            raise UsageError(
                "compile must follow a change of what is trainable. "
                "Received: weights that the optimizer does not know. Compile again."
            )
        if not weights:
            raise UsageError(
                "classifier must have weights to train. Received: all of them are frozen. "
                "Set trainable=True on some layer and compile again."
            )
        require_class_weight(class_weight or {}, self.classifier)
        if isinstance(callbacks, keras.callbacks.CallbackList):
            return callbacks
        callbacks = ready_callbacks(callbacks, validates)
        for callback in callbacks:
            if isinstance(callback, keras.callbacks.ModelCheckpoint) and not callback.save_weights_only:
                self._require_savable(callback.filepath)  # now, and not after the first epoch
        return callbacks

    def _checked_validation(self, data):
        if data is None:
            return None
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x = self._checked_evaluation(x, y, sample_weight)
        return x if y is None else keras.utils.pack_x_y_sample_weight(x, y, sample_weight)

    def _checked_evaluation(self, x, y, sample_weight):
        return checked((x, y, sample_weight), self.classifier, (1, self.objective.views))

    @true_float32()
    def evaluate(self, x=None, y=None, batch_size=None, verbose="auto", sample_weight=None, **settings):
        """Measures the loss and both accuracies at `eval_epsilon` in float32, as `keras.Model.evaluate` does.

        Args:
            x, y, batch_size, verbose, sample_weight: as in `fit`.
            **settings: the further arguments of `keras.Model.evaluate`, such as ``return_dict=True``.

        Raises:
            UsageError: the data do not fit this trainer.
        """
        # `fit` has checked the data of its validation.
        if self.compiled and not settings.get("_use_cached_eval_dataset"):
            x = self._checked_evaluation(x, y, sample_weight)
        with reported():
            return super().evaluate(x, y, batch_size, verbose, sample_weight, **settings)

    def predict(self, x, *arguments, **settings):
        """Returns the classifier's logits (N, K) of images, which are not attacked, as `keras.Model.predict`.

        Args:
            x: images (N, H, W, C), uint8 or float in [0, 1], or a source of batches.
            *arguments: the further arguments of `keras.Model.predict`.
            **settings: the same by name.

        Raises:
            UsageError: the images do not fit the classifier.
        """
        x = checked((x, None, None), self.classifier, (1, self.objective.views), labelled=False)
        with reported():
            return super().predict(x, *arguments, **settings)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """Trains on one batch, as `keras.Model.train_on_batch` does, after the checks of `fit`."""
        if self.compiled:
            checked((x, y, sample_weight), self.classifier, (self.objective.views,))
            require_class_weight(class_weight or {}, self.classifier)
        return super().train_on_batch(x, y, sample_weight, class_weight, return_dict)

    @true_float32()
    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """Measures one batch, as `keras.Model.test_on_batch` does, after the checks of `evaluate`."""
        if self.compiled:
            self._checked_evaluation(x, y, sample_weight)
        return super().test_on_batch(x, y, sample_weight, return_dict)

    def save(self, filepath, *arguments, **settings):
        """Saves all that a training continues from, as `keras.Model.save` does, in a file ``.keras``.

        Args:
            filepath: the file. Import `AdversarialTrainer` before `keras.models.load_model` reads it.
            *arguments: the further arguments of `keras.Model.save`.
            **settings: the same by name.

        Raises:
            UsageError: another kind of file, or a part of the trainer that is not registered with Keras.
        """
        self._require_savable(filepath)  # Keras would have opened, and so emptied, the file before it fails
        super().save(filepath, *arguments, **settings)

    def _require_savable(self, filepath):
        if str(filepath).endswith((".h5", ".hdf5")):
            raise UsageError(
                f"a trainer must be saved as a .keras file. Received: {filepath}. "
                "Use .keras, or trainer.save_weights for .weights.h5."
            )
        self.get_config()
        self.get_compile_config()

    def get_config(self) -> dict:
        """Returns the constructor's arguments in the form of Keras, by registered names.

        Raises:
            UsageError: a function or a layer is not registered with Keras, so that it cannot be saved.
        """
        _require_known_layers(self.classifier)
        epsilon, eval_epsilon = self._targets
        functions = {
            "attack": self.attack,
            "objective": self.objective,
            "clean_view": self.clean_view,
            "attack_from_gradient": self.attack_from_gradient,
            "eval_attack": None if self.eval_attack is self.attack else self.eval_attack,
        }
        return {
            "classifier": keras.saving.serialize_keras_object(self.classifier),
            **{name: serialized(name, function) for name, function in functions.items()},
            "epsilon": epsilon,
            "eval_epsilon": eval_epsilon,
            "attack_mode": self.attack_mode,
            "awp": self.awp,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Returns the trainer of a configuration, with new weights."""
        return cls(
            **{
                name: keras.saving.deserialize_keras_object(value, custom_objects)
                for name, value in config.items()
            }
        )

    def get_build_config(self):
        """Returns None, because the constructor builds everything."""
        return None

    def get_compile_config(self) -> dict:
        """Returns the arguments of `compile` in the form of Keras.

        Raises:
            UsageError: a metric or the optimizer is not registered with Keras, so that it cannot be saved.
        """
        given = self._compiled_with if self.compiled else {}
        return {name: serialized(name, value) for name, value in given.items()}

    def compile_from_config(self, config: dict) -> None:
        """Compiles as the saved trainer was."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def save_own_variables(self, store) -> None:
        """Saves ε and the like, and the random states of layers such as Dropout, which Keras leaves out."""
        super().save_own_variables(store)
        for number, state in enumerate(self._random_states()):
            store[f"random_{number}"] = state.numpy()

    def load_own_variables(self, store) -> None:
        """Loads what `save_own_variables` saved; a file without random states leaves them as they are."""
        names = list(store.keys())
        for number, state in enumerate(self._random_states()):
            if f"random_{number}" in names:
                state.assign(store[f"random_{number}"])
        super().load_own_variables({name: store[name] for name in names if not name.startswith("random_")})

    def _random_states(self):
        weights = {id(weight) for weight in self.weights}
        return [variable for variable in self.variables if id(variable) not in weights]

    def export(self, filepath, *arguments, **settings):
        """Exports the classifier as ``classifier.export`` does; `advtf.export_classifier` adds a manifest."""
        return self.classifier.export(filepath, *arguments, **settings)


def _unpack(data):
    """Returns images float32 (B, H, W, C), a second view of them, labels int32 (B,) and sample weights (B,).

    The second view and the weights are None where there are none.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    x, second_view = x if isinstance(x, tuple | list) else (x, None)
    second_view = None if second_view is None else to_unit_float(second_view)
    weight = None if sample_weight is None else tf.cast(tf.reshape(sample_weight, [-1]), tf.float32)
    return to_unit_float(x), second_view, tf.cast(tf.reshape(y, [-1]), tf.int32), weight


def _weighted(losses, sample_weight):
    return losses if sample_weight is None else losses * sample_weight


def norm_of(attack: Attack) -> str | None:
    """Returns the norm that an attack was built with; None for an attack of another origin."""
    call = builder_call(attack)
    norm = call.arguments.get("norm") if call else None
    return norm if norm in NORMS else None


def _require_targets(attack, eval_attack):
    """Refuses attacks on classes for an objective that gives its attack something else to compare with."""
    for name, given in {"attack": attack, "eval_attack": eval_attack or attack}.items():
        loss = call.arguments.get("loss") if (call := builder_call(given)) else None
        if name == "attack" and loss is cross_entropy:
            raise UsageError(
                "attack must climb a divergence, as this objective gives it clean probabilities in place "
                "of classes. Received: an attack on the cross-entropy. "
                "Use advtf.pgd(loss=advtf.attacks.losses.kl_divergence)."
            )
        if name == "eval_attack" and loss is kl_divergence:
            raise UsageError(
                "eval_attack must climb a loss of the classes. Received: a divergence. "
                "Give eval_attack=advtf.pgd()."
            )


def _require_logits(classifier: keras.Model) -> None:
    """Refuses a classifier that is not a built Keras model from images in [0, 1] to logits."""
    if not isinstance(classifier, keras.Model):
        raise UsageError(
            f"classifier must be a keras.Model from images to logits. Received: {type(classifier).__name__}."
        )
    if not classifier.built:
        raise UsageError(
            "classifier must have its weights. Received: a model that is not built. "
            "Begin it with keras.Input, or call it on one batch."
        )
    inputs = getattr(classifier, "inputs", None)
    if inputs is not None and len(inputs) != 1:
        raise UsageError(f"classifier must have one input, images. Received: {len(inputs)} inputs.")
    shape = getattr(classifier, "output_shape", None)
    if shape is not None:
        require_logits_shape(shape)
    last = _last_layer(classifier)
    activation = getattr(last, "activation", None)
    if activation is keras.activations.softmax or isinstance(last, keras.layers.Softmax):
        raise UsageError(
            "classifier must return logits: cross-entropy on probabilities hides gradients from attacks. "
            "Received: a model ending in softmax. Build it without the last activation."
        )
    _require_unit_pixels(classifier)


def _require_unit_pixels(classifier):
    """Refuses a layer that divides by 255 where nothing multiplies: the images are in [0, 1] already."""
    layers = [layer for layer in classifier._flatten_layers() if isinstance(layer, keras.layers.Rescaling)]
    scales = [float(scale) for layer in layers for scale in tf.nest.flatten(layer.scale)]
    if scales and min(scales) < 0.01 and max(scales) < 100:
        raise UsageError(
            "classifier must take pixels in [0, 1], so that ε means the same for everybody. Received: a "
            f"Rescaling layer with scale {min(scales):.3g}, for pixels up to 255. Leave it out, or put "
            "keras.layers.Rescaling(255.0) before it."
        )


def _require_no_float16(classifier, optimizer):
    """Refuses float16 and its loss scaling: gradients of attacks would underflow."""
    layers = [layer for layer in classifier._flatten_layers() if layer.compute_dtype == "float16"]
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or optimizer.loss_scale_factor
    if layers or scaled:
        received = f"layer {layers[0].name} in float16" if layers else "an optimizer that scales the loss"
        raise UsageError(
            "a trainer computes in float32 or bfloat16: the gradients of an attack underflow in float16. "
            f'Received: {received}. Use the dtype policy "mixed_bfloat16".'
        )


def _require_known_layers(classifier):
    """Refuses a classifier with layers that Keras could write but not read again."""
    for layer in classifier._flatten_layers():
        kind = type(layer)
        if not is_known(kind):
            raise UsageError(
                "classifier must consist of layers known to Keras to be saved. "
                f"Received: layer {layer.name}, a {kind.__name__}, which is not. Decorate the class with "
                "keras.saving.register_keras_serializable(), or call trainer.save_weights."
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


class _Rows(NamedTuple):
    """Which rows of the batch of all replicas a replica has.

    Attributes:
        first: the number of the first one, a scalar.
        count: how many there are, a scalar.
        total: the number of rows of all replicas, a scalar.
        whole: whether there is one replica only, which has all rows.
    """

    first: tf.Tensor
    count: tf.Tensor
    total: tf.Tensor
    whole: bool

    def among_first(self, number):
        """Returns how many of the first `number` rows of the whole batch the replica has."""
        return number if self.whole else tf.clip_by_value(number - self.first, 0, self.count)


def _rows_of(batch: tf.Tensor) -> _Rows:
    count = tf.shape(batch)[0]
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas == 1:
        return _Rows(tf.zeros_like(count), count, count, whole=True)
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    # The counts of all replicas; float32 is reduced by every strategy, and exact up to 2^24.
    (counts,) = _sum_over_replicas([tf.one_hot(replica, replicas) * tf.cast(count, tf.float32)])
    counts = tf.cast(counts, tf.int32)
    first = tf.gather(tf.cumsum(counts, exclusive=True), replica)
    return _Rows(first, count, tf.reduce_sum(counts), whole=False)


def _at_least_one_example(batch: tf.Tensor) -> tf.Tensor:
    """Adds an example of zeros where a replica got nothing of a short last batch: convolutions need one."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return batch
    missing = tf.maximum(1 - tf.shape(batch)[0], 0)
    return tf.pad(batch, [[0, missing]] + [[0, 0]] * (batch.shape.rank - 1))
