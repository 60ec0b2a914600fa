"""What a training does outside its compiled steps, against those steps.

Real trainings of ResNet18 in bfloat16 with all callbacks, on random images. The seconds between two steps,
and those from the last step to the end (logs, figures of TensorBoard, snapshot, checkpoint), are scaled to an
epoch of CIFAR-10 and compared with the seconds of its steps. The first step, which traces, is left out. This
entry has a process of its own: what other measurements leave behind slows down the end of an epoch.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from launch.common.benchmark import Comparison

EPOCH_IMAGES = 50_000


def compare(options: SimpleNamespace) -> Iterator[Comparison]:
    """Yields one comparison; a round is a training of one epoch."""
    spent = [_fit(options) for _ in range(options.rounds)]
    epoch, counted = EPOCH_IMAGES // options.batch_size, options.steps - 1
    pairs = [(epoch * between / counted + end, epoch * inside / counted) for inside, between, end in spent]
    medians = np.median(spent, axis=0)
    yield Comparison(
        what=f"an epoch of {epoch} PGD-10 steps, ResNet18 w={options.width}, bfloat16",
        ours="everything outside the steps",
        against="the steps",
        pairs=pairs,
        work=f"{epoch} steps",
        facts={
            "milliseconds_between_steps": 1000 * float(medians[1]) / counted,
            "seconds_at_the_end": float(medians[2]),
        },
    )


def _fit(options):
    """Trains one epoch with every callback; returns seconds in steps, between steps and at the end."""
    from advtf.data.sets import from_arrays
    from advtf.runtime import start
    from advtf.training.directory import TrainingDirectory
    from advtf.training.run import build_trainer, train
    from advtf.training.settings import RunOptions, TrainConfig

    runtime = start(precision="bfloat16")
    rng = np.random.default_rng(0)
    x = rng.random((options.batch_size * options.steps, 32, 32, 3), np.float32)
    y = rng.integers(0, 10, len(x)).astype(np.int32)
    data = from_arrays(x, y, x[:8], y[:8], num_classes=10)
    config = TrainConfig.of(
        {
            "dataset": "cifar10", "model": "resnet18", "width": options.width, "epochs": 1,
            "batch_size": options.batch_size, "eps_sched": "constant", "precision": "bfloat16",
        }
    )  # fmt: skip
    trainer = build_trainer(config, data, runtime)
    trainer.make_train_function()
    step, spans = trainer.train_function, []

    def timed(iterator):
        begin = time.perf_counter()
        logs = step(iterator)
        spans.append((begin, time.perf_counter()))
        return logs

    trainer.train_function = timed
    with tempfile.TemporaryDirectory() as folder, runtime.training():
        train(trainer, config, RunOptions.of({}), TrainingDirectory(Path(folder)), data)
        end = time.perf_counter()
    inside = sum(after - before for before, after in spans[1:])
    return inside, spans[-1][1] - spans[0][1] - inside, end - spans[-1][1]
