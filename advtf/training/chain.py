"""The callbacks of a training run, in the order in which they act."""

from collections.abc import Callable
from functools import partial

import keras
import tensorflow as tf

from advtf.attacks.losses import cross_entropy
from advtf.data.augmentation import to_unit_float
from advtf.data.sets import ImageData, evaluation_batches
from advtf.runtime import bfloat16_rewrite
from advtf.storage.rundir import RunDirectory
from advtf.training import callbacks as cb
from advtf.training.averaging import WeightAverage, WeightAveraging, snapshots_of
from advtf.training.averaging_settings import swa_start_epoch
from advtf.training.checkpoint import Checkpoint, CheckpointFolder
from advtf.training.dynamics import GradientDynamics
from advtf.training.input_callback import InputLandscape
from advtf.training.logs import JsonLines, TensorBoard
from advtf.training.methods import build_adversary
from advtf.training.schedules import epsilon_schedule, rate_schedule
from advtf.training.settings import RunOptions, TrainConfig
from advtf.training.trainer import AdversarialTrainer, full_precision

SAMPLE_IMAGES = 8  # test images shown in TensorBoard and in the grid of adversarial examples
STATISTICS_IMAGES = 5000  # give BatchNorm's moments to about 1 % of a standard deviation


def period_ends(config: TrainConfig) -> list[int]:
    """Returns the epochs (1-based) after which a period is complete; the last one ends training."""
    return [*config.periods, config.epochs]


def schedules(config: TrainConfig) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """Returns (ε, learning rate) of a configuration as functions of the position in epochs."""
    curve = {} if config.eps_sched == "constant" else {"minimum": config.eps_min, "maximum": config.eps_max}
    shared = {"boundaries": config.periods, "epochs": config.epochs}
    epsilon = epsilon_schedule(config.eps_sched, target=config.eps, **curve, **shared)
    shape = {"milestones": config.lr_milestones, "factor": config.lr_factor, "warmup": config.lr_warmup}
    return epsilon, rate_schedule(config.lr_sched, config.lr, **shape, **shared)


def build_callbacks(
    trainer: AdversarialTrainer,
    config: TrainConfig,
    options: RunOptions,
    run: RunDirectory,
    data: ImageData,
    validation: tf.data.Dataset | None,
    steps_per_epoch: int,
    stop_requested: Callable[[], bool],
    rewrite: bool,
) -> tuple[list[keras.callbacks.Callback], Checkpoint]:
    """Returns the callbacks of a run, and the checkpoint among them, which can restore the others.

    Args:
        validation: the batches that are measured after every epoch.
        stop_requested: polled after every step.
        rewrite: training is in bfloat16 by oneDNN's graph rewriting, from which measuring is exempt.
    """
    statistics = cb.WeightStatistics(trainer.classifier)
    snapshots = cb.Snapshots(run.snapshots, period_ends(config))
    dynamics = _dynamics(config, options, run, trainer, steps_per_epoch)
    measuring = [_EvaluateInFloat32()] if rewrite else []
    averaging = _averaging(config, run, trainer, data, validation, steps_per_epoch, measuring)
    stateful = {"statistics": statistics, "snapshots": snapshots, **dynamics, **averaging}
    checkpoint = Checkpoint(
        CheckpointFolder(run.checkpoints),
        stateful,
        steps_per_epoch,
        options.checkpoint_minutes,
        stop_requested,
        {name: callback.average.variables for name, callback in averaging.items()},
    )
    chain = [
        *_scheduled(config, steps_per_epoch),
        *measuring,
        statistics,
        *dynamics.values(),
        cb.StopOnNonFiniteLoss(),
        *averaging.values(),  # before the logs, to which it and the next add
        *_input_landscape(config, options, data),
        JsonLines(run.metrics, examples_per_step=config.batch_size),
        _tensorboard(config, options, run, trainer, data),
        snapshots,
        checkpoint,  # last: it saves what the others have done
    ]
    return chain, checkpoint


def _scheduled(config, spe):
    epsilon, rate = schedules(config)
    chain = [
        cb.EpsilonSchedule(epsilon, config.schedule_unit, spe),
        cb.RateSchedule(rate, config.schedule_unit, spe),
    ]
    if config.strength_ramp:
        # From 0 to 1 in the last epoch, or at the last step: each is set once, at its beginning.
        span = max(config.epochs - 1, 1) if config.schedule_unit == "epoch" else config.epochs
        chain.append(cb.StrengthSchedule(lambda epoch: epoch / span, config.schedule_unit, spe))
    if config.reset_optimizer:
        chain.append(cb.PeriodicReset(config.periods))
    return chain


class _EvaluateInFloat32(keras.callbacks.Callback):
    """Switches oneDNN's bfloat16 rewriting off while Keras validates."""

    def on_test_begin(self, logs=None):
        self.context = bfloat16_rewrite(False)
        self.context.__enter__()

    def on_test_end(self, logs=None):
        self.context.__exit__(None, None, None)


def _averaging(config, run, trainer, data, validation, spe, measuring):
    if config.averaging == "none":
        return {}

    def validate():
        logs = trainer.evaluate(validation, callbacks=list(measuring), verbose=0, return_dict=True)
        return {f"val_{name}": float(value) for name, value in logs.items()}

    swa = config.averaging == "swa"
    callback = WeightAveraging(
        WeightAverage(trainer.classifier, config.averaging, config.ema_decay),
        start=swa_start_epoch(config) * spe if swa else 0,
        every=(config.swa_every or spe) if swa else 1,
        snapshots=snapshots_of(config.averaging, run.snapshots, period_ends(config)),
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
    attack = build_adversary(config, cross_entropy)  # that of trades climbs a divergence, not the loss
    settings = {"every": options.input_every, "norm": config.norm, "seed": config.seed}
    return [InputLandscape(x, y, config.eps, attack, x_val=x_val, y_val=y_val, **settings)]


def _tensorboard(config, options, run, trainer, data) -> TensorBoard:
    shown = next(iter(evaluation_batches(data.validation or data.train, SAMPLE_IMAGES, limit=SAMPLE_IMAGES)))
    seed = tf.constant([config.seed, 0], tf.int64)

    @tf.function
    def attack(x, y):
        with full_precision(trainer.classifier):
            return trainer.eval_attack(partial(trainer.classifier, training=False), x, y, config.eps, seed)

    sample = tuple(part.numpy() for part in shown)
    return TensorBoard(
        run.tensorboard, sample, attack, options.histograms, examples_per_step=config.batch_size
    )


def _dynamics(config, options, run, trainer, spe):
    if options.dynamics_steps is None:
        return {}
    updates, total = options.dynamics_steps, config.epochs * spe
    return {"dynamics": GradientDynamics(trainer.classifier, run.dynamics, updates=updates, total=total)}
