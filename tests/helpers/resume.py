"""Training runs in this process that die where a test wants them to."""

from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import tensorflow as tf

from advtf.data import sets as data
from advtf.runtime import Runtime
from advtf.training.callbacks import load_snapshot
from advtf.training.directory import TrainingDirectory
from advtf.training.run import build_classifier, build_trainer, train
from advtf.training.settings import RunOptions, TrainConfig

RUNTIME = Runtime("CPU", tf.distribute.get_strategy(), "float32", "auto")
EVERY_STEP = 1e-9  # minutes between checkpoints


class Crash(BaseException):
    """What kill -9 leaves in memory: nothing."""


@dataclass
class Attempt:
    run: TrainingDirectory
    reports: list


def attempt(folder, settings, minutes=EVERY_STEP, **options):
    """Trains in `folder`, as the command would: from the newest checkpoint if there is one."""
    config = TrainConfig.of(settings)
    digits = data.load("digits", val_fraction=config.val_fraction)
    run, reports = TrainingDirectory(folder), []
    folder.mkdir(exist_ok=True)
    options = RunOptions(checkpoint_minutes=minutes, **options)
    trainer = build_trainer(config, digits, RUNTIME)
    train(trainer, config, options, run, digits, report=reports.append)
    return Attempt(run, reports)


def trained_snapshot(run, name, config):
    """Returns the classifier of a snapshot of a run on digits, its record, and the images."""
    digits = data.load("digits", val_fraction=config.val_fraction)
    classifier = build_classifier(config, digits)
    record = load_snapshot(run.snapshots / f"{name}.npz", classifier)
    return classifier, record, digits


@contextmanager
def crashing(owner, name, call, happening=None, counts=None):
    """Within, call number `call` of a function does `happening`, by default the end of the process.

    Only calls count whose arguments `counts` accepts, if it is given.
    """
    original, calls = getattr(owner, name), []

    def counted(*arguments, **options):
        counted_now = counts is None or counts(*arguments)
        calls.extend([name] * counted_now)
        if counted_now and len(calls) == call:
            if happening is None:
                raise Crash
            happening()
        return original(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counted)
        yield
