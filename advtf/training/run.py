"""One training run from its configuration: model, trainer, callbacks, epochs, and the way back in."""

import sys

import keras

from advtf import models
from advtf.attacks.attack import Attack
from advtf.attacks.pgd import pgd
from advtf.data.sets import ImageData, evaluation_batches, steps_per_epoch_of, training_batches
from advtf.errors import UsageError
from advtf.runtime import Runtime, bfloat16_rewrite
from advtf.storage import jsonl
from advtf.storage.rundir import RunDirectory
from advtf.training import methods
from advtf.training.chain import build_callbacks
from advtf.training.checkpoint import stop_on_signals
from advtf.training.optimizers import build_optimizer
from advtf.training.settings import RunOptions, TrainConfig
from advtf.training.trainer import AdversarialTrainer


def build_classifier(
    config: TrainConfig, data: ImageData, policy: str = "float32", synchronized: bool = False
):
    """Builds the untrained classifier of a configuration; the same configuration gives the same weights.

    Args:
        config: names the model and seeds it.
        data: gives the image shape and the number of classes.
        policy: Keras dtype policy, "float32" or "mixed_bfloat16".
        synchronized: take BatchNorm moments over all replicas.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return models.build(
            config.model,
            data.input_shape,
            data.num_classes,
            width=config.width,
            depth=config.depth,
            activation=config.activation,
            seed=config.seed,
            synchronized=synchronized,
        )
    finally:
        keras.config.set_dtype_policy(before)


def build_attack(config: TrainConfig, restarts: int = 1) -> Attack:
    """Builds PGD as configured, which measures robustness whatever adversary trains, with `restarts`."""
    return pgd(config.norm, config.attack_steps, config.relative_step, config.random_start, restarts)


def build_trainer(config: TrainConfig, data: ImageData, runtime: Runtime) -> AdversarialTrainer:
    """Builds and compiles the trainer of a configuration within the runtime's strategy.

    Raises:
        UsageError: the settings do not fit the data or the number of replicas.
    """
    _steps_per_epoch(config, data)
    replicas = runtime.strategy.num_replicas_in_sync
    if config.batch_size % replicas:
        raise UsageError(
            f"batch_size must be a multiple of the number of replicas, {replicas}. "
            f"Received: batch_size={config.batch_size}."
        )
    objective = methods.build_objective(config, data.num_classes)  # loads teachers: outside the scope
    with runtime.strategy.scope():
        classifier = build_classifier(config, data, runtime.model_policy, synchronized=replicas > 1)
        trainer = AdversarialTrainer(
            classifier,
            methods.build_adversary(config),
            config.eps,
            objective=objective,
            clean_view=methods.clean_view(config),
            attack_mode=config.attack_mode,
            attack_from_gradient=methods.build_onwards(config),
            awp=config.awp,
            eval_attack=build_attack(config),
            seed=config.seed,
        )
        optimizer = build_optimizer(
            config.optimizer,
            config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            decoupled=config.decoupled_weight_decay,
        )
        trainer.compile(optimizer, jit_compile=runtime.jit_compile)
    return trainer


def _steps_per_epoch(config, data):
    available = steps_per_epoch_of(data.train, config.batch_size)
    if (config.steps_per_epoch or 0) > available:
        raise UsageError(
            f"steps_per_epoch must be at most {available}, the full batches of {config.batch_size} in "
            f"{len(data.train)} examples. Received: steps_per_epoch={config.steps_per_epoch}."
        )
    return config.steps_per_epoch or available


def _validation(config, data):
    """Batches of what `select_on` names: held-out training data, or the test images if asked for."""
    images = data.test if config.select_on == "test" else data.validation
    return evaluation_batches(images, config.batch_size) if images else None


def train(
    trainer: AdversarialTrainer,
    config: TrainConfig,
    options: RunOptions,
    run: RunDirectory,
    data: ImageData,
    rewrite: bool = False,
    report=print,
) -> None:
    """Trains to the last epoch, from the newest checkpoint when there is one.

    Leaves metrics, checkpoints, snapshots and TensorBoard files in the run directory. The data order, the
    augmentation, the attacks' starts and the schedules depend on the seed and the step number only, so a
    continued run has the bits of an uninterrupted one.

    Args:
        trainer: what `build_trainer` returned for `config` and `data`, untrained.
        rewrite: train in bfloat16 by oneDNN's graph rewriting.

    Raises:
        UsageError: none of the checkpoints there can be read.
        TrainingInterrupted: stopped by a signal, after saving; its `signal` is the number.
        NonFiniteLoss: the loss became NaN or infinite.
    """
    spe = _steps_per_epoch(config, data)
    validation = _validation(config, data)
    with stop_on_signals() as signals:
        chain, checkpoint = build_callbacks(
            trainer, config, options, run, data, validation, spe, lambda: bool(signals), rewrite
        )
        done = checkpoint.restore(trainer, report)
        jsonl.truncate(run.metrics, done // spe)
        if done:
            report(f"Continuing after step {done} of {config.epochs * spe}.")
        with bfloat16_rewrite(rewrite):
            _fit(trainer, config, data, validation, chain, done, spe)


class _OneEpoch(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


def _fit(trainer, config, data, validation, chain, done, spe):
    """Calls Keras' fit, twice when the run continues within an epoch: Keras counts steps from 0."""

    def fit(start, steps, extra=()):
        trainer.fit(
            training_batches(
                data.train,
                config.batch_size,
                seed=config.seed,
                steps_per_epoch=spe,
                start_step=start,
                total_steps=config.epochs * spe,
                augment=config.augment,
                views=trainer.objective.views,
            ),
            initial_epoch=start // spe,
            epochs=config.epochs,
            steps_per_epoch=steps,
            validation_data=validation,
            callbacks=[*chain, *extra],
            shuffle=False,
            verbose=1 if sys.stdout.isatty() else 2,
        )

    if done % spe:
        fit(done, spe - done % spe, [_OneEpoch()])
        done += spe - done % spe
    if done < config.epochs * spe:
        fit(done, spe)
