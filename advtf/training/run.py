"""One training run from its settings: classifier, trainer, callbacks, epochs, and the way back in.

Read `train` and `build_trainer` first: `advtf.main` calls the second, then the first. `build_callbacks` lists
what happens around the steps, in order. `advtf.training.trainer` says what happens within one.
"""

import contextlib
import sys
from collections.abc import Callable
from functools import partial

import keras
import tensorflow as tf

from advtf import models
from advtf.attacks.attack import Attack
from advtf.attacks.losses import cross_entropy
from advtf.attacks.pgd import pgd
from advtf.data.arrays import to_unit_float
from advtf.data.batches import WHOLE, Share, evaluation_batches, steps_per_epoch_of, training_batches
from advtf.data.sets import ImageData
from advtf.errors import UsageError
from advtf.runtime import Runtime, is_multi_worker, true_float32
from advtf.storage import jsonl
from advtf.training import callbacks as cb
from advtf.training import methods
from advtf.training.averaging import WeightAverage, WeightAveraging
from advtf.training.checkpoint import Checkpoint, CheckpointFolder, stop_on_signals
from advtf.training.checks import StopOnNonFiniteLoss
from advtf.training.cluster import any_worker
from advtf.training.directory import TrainingDirectory
from advtf.training.logs import JsonLines, TensorBoard, truncate_events
from advtf.training.optimizers import build_optimizer
from advtf.training.schedules import strength_ramp
from advtf.training.settings import RunOptions, TrainConfig
from advtf.training.trainer import AdversarialTrainer, full_precision

SAMPLE_IMAGES = 8  # test images shown in TensorBoard and in the grid of adversarial examples
STATISTICS_IMAGES = 5000  # they give BatchNorm's moments to about 1 % of a standard deviation


def build_trainer(config: TrainConfig, data: ImageData, runtime: Runtime) -> AdversarialTrainer:
    """Builds and compiles the trainer of a configuration within the runtime's strategy.

    Args:
        config: determines the classifier, the objective, the attack and the optimizer.
        data: gives the image shape, the number of classes and the number of steps in an epoch.
        runtime: the devices, from `advtf.runtime.start`.

    Raises:
        UsageError: the settings do not fit the data or the number of replicas.
    """
    steps_per_epoch_of(data.train, config.batch_size, config.steps_per_epoch)
    replicas = runtime.strategy.num_replicas_in_sync
    if config.batch_size % replicas:
        raise UsageError(
            f"batch_size must be a multiple of the number of replicas, {replicas}. "
            f"Received: batch_size={config.batch_size}."
        )
    # It loads the teachers, which do not belong into the strategy's scope.
    objective = methods.build_objective(config, data.num_classes, data.input_shape)
    with runtime.strategy.scope():
        classifier = build_classifier(config, data, runtime.model_policy, synchronized=replicas > 1)
        trainer = AdversarialTrainer(
            classifier,
            methods.build_adversary(config),
            config.eps,
            objective=objective,
            clean_view=methods.clean_view(config),
            attack_mode=config.attack_mode,
            attack_from_gradient=methods.build_attack_from_gradient(config, objective),
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


def build_classifier(
    config: TrainConfig, data: ImageData, policy: str = "float32", synchronized: bool = False
):
    """Builds the untrained classifier of a configuration; the same configuration gives the same weights.

    Args:
        config: names the model and seeds its weights.
        data: gives the image shape and the number of classes.
        policy: the Keras dtype policy, "float32" or "mixed_bfloat16".
        synchronized: whether BatchNorm takes its moments over all replicas.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return models.build(
            config.model,
            data.input_shape,
            data.num_classes,
            **config.network,
            activation=config.activation,
            seed=config.seed,
            synchronized=synchronized,
        )
    finally:
        keras.config.set_dtype_policy(before)


def build_attack(config: TrainConfig, restarts: int = 1) -> Attack:
    """Builds PGD as configured, with `restarts`; robustness is measured with it whatever the adversary is."""
    return pgd(config.norm, config.attack_steps, config.relative_step, config.random_start, restarts)


def train(
    trainer: AdversarialTrainer,
    config: TrainConfig,
    options: RunOptions,
    run: TrainingDirectory,
    data: ImageData,
    runtime: Runtime | None = None,
    report=print,
) -> None:
    """Trains to the last epoch, from the newest checkpoint when there is one.

    The run directory gets metrics, checkpoints, snapshots and TensorBoard files; of several workers the chief
    writes them, and all read the checkpoint. The order of the data, the
    augmentation, the starts of the attacks and the schedules depend on the seed and the step number only, so
    that a continued run has the bits of an uninterrupted one.

    Args:
        trainer: what `build_trainer` returned for `config` and `data`, untrained.
        config: determines the numbers of the run.
        options: determine what is recorded besides them.
        run: the run directory; it exists.
        data: the images to train on and to validate on.
        runtime: gives the arithmetic of the training, and whether this process writes files; None trains as
            the process computes, and writes.
        report: is called with one line of text when a training is continued.

    Raises:
        UsageError: there are checkpoints, and none of them can be read.
        TrainingInterrupted: a signal stopped the training, after saving; its `signal` is the number.
        NonFiniteLoss: the loss became NaN or infinite.
    """
    steps_per_epoch = steps_per_epoch_of(data.train, config.batch_size, config.steps_per_epoch)
    writes = runtime is None or runtime.chief
    validation = _validation(trainer.distribute_strategy, config, data)
    with stop_on_signals() as signals:
        callbacks, checkpoint = build_callbacks(
            trainer, config, options, run, data, validation, steps_per_epoch, lambda: bool(signals), writes
        )
        done = checkpoint.restore(trainer, report)
        if writes:
            jsonl.truncate(run.metrics, done // steps_per_epoch)
            truncate_events(run.tensorboard, done // steps_per_epoch)
        if done:
            report(f"Continuing after step {done} of {config.epochs * steps_per_epoch}.")
        with runtime.training() if runtime else contextlib.nullcontext():
            _fit(trainer, config, data, validation, callbacks, done, steps_per_epoch, writes)


def _validation(strategy, config, data):
    """Returns batches of the images that `select_on` names: held-out training data, or the test images."""
    images = data.test if config.select_on == "test" else data.validation
    if not images:
        return None
    return _shared(strategy, lambda share: evaluation_batches(images, config.batch_size, share=share))


def _shared(strategy, batches: Callable[[Share], tf.data.Dataset]):
    """Returns ``batches(share)``; with other workers each process delivers its own rows."""
    if not is_multi_worker(strategy):
        return batches(WHOLE)  # a strategy of one process splits the batches itself
    local, replicas = len(strategy.extended.worker_devices), strategy.num_replicas_in_sync
    return strategy.distribute_datasets_from_function(
        lambda context: batches(Share(context.input_pipeline_id * local, local, replicas))
    )


def build_callbacks(
    trainer: AdversarialTrainer,
    config: TrainConfig,
    options: RunOptions,
    run: TrainingDirectory,
    data: ImageData,
    validation: tf.data.Dataset | None,
    steps_per_epoch: int,
    stop_requested: Callable[[], bool],
    writes: bool = True,
) -> tuple[list[keras.callbacks.Callback], Checkpoint]:
    """Returns the callbacks of a run in the order in which they act, and the checkpoint among them.

    The checkpoint saves the state of the others and can restore it.

    Args:
        trainer, config, options, run, data: as in `train`.
        validation: the batches that are measured after every epoch; None without any.
        steps_per_epoch: the number of steps in an epoch.
        stop_requested: is called after every step, and says whether the run should stop.
        writes: whether this process writes the files; of several workers one does, and the others have those
            callbacks only that train or that read what all workers must read together.
    """
    statistics = cb.WeightStatistics(trainer.classifier)
    snapshots = cb.Snapshots(run.snapshots, period_ends(config), writes=writes)
    dynamics = _dynamics(config, options, run, trainer, steps_per_epoch, writes)
    averaging = _averaging(config, run, trainer, data, validation, steps_per_epoch, writes)
    stateful = {"statistics": statistics, "snapshots": snapshots, **dynamics, **averaging}
    checkpoint = Checkpoint(
        CheckpointFolder(run.checkpoints),
        stateful,
        steps_per_epoch,
        options.checkpoint_minutes,
        stop_requested,
        {name: callback.average.variables for name, callback in averaging.items()},
        any_worker(trainer.distribute_strategy),
        writes,
    )
    callbacks = [
        *_schedule_callbacks(config, steps_per_epoch),
        statistics,
        *dynamics.values(),
        StopOnNonFiniteLoss(),
        *averaging.values(),  # this one and the next add to the logs that are then written
        *(_records(config, options, run, trainer, data) if writes else []),
        snapshots,
        checkpoint,  # it comes last, because it saves what the others have done
    ]
    return callbacks, checkpoint


def _records(config, options, run, trainer, data):
    return [
        *_input_landscape(config, options, data),
        JsonLines(run.metrics, examples_per_step=config.batch_size),
        _tensorboard(config, options, run, trainer, data),
    ]


def _schedule_callbacks(config, steps_per_epoch):
    callbacks = [
        cb.EpsilonSchedule(config.epsilon_schedule(), config.schedule_unit, steps_per_epoch),
        cb.RateSchedule(config.rate_schedule(), config.schedule_unit, steps_per_epoch),
    ]
    if config.strength_ramp:
        ramp = strength_ramp(config.epochs, config.schedule_unit, steps_per_epoch)
        callbacks.append(cb.StrengthSchedule(ramp, config.schedule_unit, steps_per_epoch))
    if config.reset_optimizer:
        callbacks.append(cb.PeriodicReset(config.periods))
    return callbacks


def _dynamics(config, options, run, trainer, steps_per_epoch, writes):
    if options.dynamics_steps is None:
        return {}
    total = config.epochs * steps_per_epoch
    callback = cb.GradientDynamics(
        trainer.classifier, run.dynamics, updates=options.dynamics_steps, total=total, writes=writes
    )
    return {"dynamics": callback}


def _averaging(config, run, trainer, data, validation, steps_per_epoch, writes):
    if config.averaging == "none":
        return {}

    def validate():
        logs = trainer.evaluate(validation, verbose=0, return_dict=True)
        return {f"val_{name}": float(value) for name, value in logs.items()}

    swa = config.averaging == "swa"
    callback = WeightAveraging(
        WeightAverage(trainer.classifier, config.averaging, config.ema_decay),
        start=config.swa_start_epoch * steps_per_epoch if swa else 0,
        every=(config.swa_every or steps_per_epoch) if swa else 1,
        snapshots=cb.Snapshots(run.snapshots, [config.epochs], f"{config.averaging}_", writes=writes),
        images=to_unit_float(data.train.images[:STATISTICS_IMAGES]).numpy(),
        validate=None if validation is None else validate,
    )
    return {"averaging": callback}


def _input_landscape(config, options, data):
    if options.input_every is None:
        return []
    sets = [data.train.select(slice(options.input_examples))]
    if data.validation:
        sets.append(data.validation.select(slice(options.input_examples)))
    (x, y), *held_out = [(to_unit_float(part.images).numpy(), part.labels) for part in sets]
    x_val, y_val = held_out[0] if held_out else (None, None)
    # The adversary of trades climbs a divergence; the measures are about the cross-entropy.
    attack = methods.build_adversary(config, cross_entropy)
    settings = {"every": options.input_every, "norm": config.norm, "seed": config.seed}
    return [cb.InputLandscape(x, y, config.eps, attack, x_val=x_val, y_val=y_val, **settings)]


def _tensorboard(config, options, run, trainer, data) -> TensorBoard:
    shown = next(iter(evaluation_batches(data.validation or data.train, SAMPLE_IMAGES, limit=SAMPLE_IMAGES)))
    seed = tf.constant([config.seed, 0], tf.int64)

    @true_float32()
    @tf.function(autograph=False)
    def attack(x, y):
        with full_precision(trainer.classifier):
            return trainer.eval_attack(partial(trainer.classifier, training=False), x, y, config.eps, seed)

    sample = tuple(part.numpy() for part in shown)
    return TensorBoard(
        run.tensorboard, sample, attack, options.histograms, examples_per_step=config.batch_size
    )


def period_ends(config: TrainConfig) -> list[int]:
    """Returns the epochs (counted from 1) after which a period is complete; the last one ends training."""
    return [*config.periods, config.epochs]


def _fit(trainer, config, data, validation, callbacks, done, steps_per_epoch, writes):
    """Calls Keras' fit, twice when the run continues within an epoch, because Keras counts steps from 0."""

    def batches(start, share):
        return training_batches(
            data.train,
            config.batch_size,
            seed=config.seed,
            steps_per_epoch=steps_per_epoch,
            start_step=start,
            total_steps=config.epochs * steps_per_epoch,
            augment=config.augment,
            views=trainer.objective.views,
            share=share,
        )

    def fit(start, steps, callbacks):
        trainer.fit(
            _shared(trainer.distribute_strategy, partial(batches, start)),
            initial_epoch=start // steps_per_epoch,
            epochs=config.epochs,
            steps_per_epoch=steps,
            validation_data=validation,
            callbacks=callbacks,
            shuffle=False,
            verbose=(1 if sys.stdout.isatty() else 2) if writes else 0,
        )

    if done % steps_per_epoch:
        missing = steps_per_epoch - done % steps_per_epoch
        fit(done, missing, [*callbacks, _StopAfterOneEpoch()])
        done += missing
    if done < config.epochs * steps_per_epoch:
        fit(done, steps_per_epoch, [*callbacks])


class _StopAfterOneEpoch(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True
