"""The batches of the input pipeline alone against the training steps that take them.

LeNet, the fastest network, in bfloat16, with PGD-10 and with the single step of FGSM-N: on 28×28 grey
images as they are, and on 64×64 colour images that are cropped and flipped. A new pipeline is made in every
round and delivers many more batches than there are steps, so that what it has prepared ahead does not
count. If it takes as long as the steps, a training waits for it; prefetching hides it where there is a core
to spare.
"""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np

from launch.common.benchmark import Comparison
from launch.common.timing import timed_in_turn

IMAGES = {(28, 28, 1): False, (64, 64, 3): True}  # shape -> whether they are augmented
AHEAD = 50  # batches that the pipeline delivers for each step
STEPS = {"pgd": "PGD-10", "fgsm_n": "FGSM-N"}


def compare(options: SimpleNamespace) -> Iterator[Comparison]:
    """Yields one comparison for both shapes and both adversaries."""
    for shape, augment in IMAGES.items():
        calls = _calls(shape, augment, options)
        for call in calls.values():
            call()
        times = timed_in_turn(calls, options.rounds)
        images = options.batches * options.batch_size
        delivered = np.array(times["pipeline"]) / AHEAD
        for adversary, label in STEPS.items():
            yield Comparison(
                what=f"{options.batches} batches of {options.batch_size}, "
                f"{shape[0]}×{shape[1]}×{shape[2]}{', cropped and flipped' if augment else ''}",
                ours="the pipeline alone",
                against=f"{label} steps of LeNet w={options.width}, bfloat16",
                pairs=list(zip(delivered, times[adversary], strict=True)),
                work=f"{images} images",
                goal=1.0,
                facts={"images_per_second": images / float(np.median(delivered))},
            )


def _calls(shape, augment, options):
    import tensorflow as tf

    from advtf.data.batches import training_batches
    from advtf.data.sets import from_arrays
    from advtf.runtime import start
    from advtf.training.run import build_trainer
    from advtf.training.settings import TrainConfig

    rng, size = np.random.default_rng(0), options.batch_size
    x = rng.integers(0, 256, (AHEAD * size, *shape), np.uint8)
    y = rng.integers(0, 10, len(x)).astype(np.int32)
    data, runtime = from_arrays(x, y, x[:8], y[:8], num_classes=10), start(precision="bfloat16")
    batches = training_batches(data.train, size, seed=0, augment=augment)

    def deliver():
        for images, _ in batches.take(AHEAD * options.batches):
            last = images
        float(last[0, 0, 0, 0])

    def steps(adversary):
        config = TrainConfig.of(
            {
                "dataset": "cifar10", "model": "lenet", "width": options.width, "batch_size": size,
                "adversary": adversary, "epochs": 1, "eps_sched": "constant", "precision": "bfloat16",
                "augment": False,
            }
        )  # fmt: skip
        trainer = build_trainer(config, data, runtime)
        trainer.make_train_function()
        fixed = tf.constant(x[:size], tf.float32) / 255, tf.constant(y[:size])
        repeated = iter(tf.data.Dataset.from_tensors(fixed).repeat())

        def run():
            with runtime.training():
                for _ in range(options.batches):
                    logs = trainer.train_function(repeated)
                float(logs["loss"])

        return run

    return {"pipeline": deliver} | {adversary: steps(adversary) for adversary in STEPS}
