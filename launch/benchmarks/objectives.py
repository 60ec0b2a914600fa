"""What an objective costs: its training step against that of adversarial training with the same adversary.

Random images of CIFAR's shape. The compiled steps of an objective and of `at` are timed in turn, whole as a
training makes them. Beside each ratio stands the ratio of the paper's times (Li & Spratling 2023, Table 1, on
a V100), as the fact "paper_ratio".

What can be expected: count a forward pass as 1, the gradient of the images as 1 more, that of the weights
(and the layers between) as 2 more. PGD-10 is 20 and `at` 23 in all, FGSM-N is 2 and `at` 5. A second pass
through which weights get gradients adds 3: AdvLC takes 26/23 = 1.13 and 8/5 = 1.6 of `at`. As published the
attack is in training mode, PGD starts at the image and the clean branch of FGSM-N sees the noised one;
AdvLC's clean pass then is the attack's first: 25/23 = 1.09 and 7/5 = 1.4.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from launch.common.benchmark import Comparison
from launch.common.objectives import OBJECTIVES, settings_of
from launch.common.timing import timed_in_turn

if TYPE_CHECKING:
    from advtf.runtime import Runtime

# Seconds per batch in Table 1, by adversary and objective.
PAPER = {
    "pgd": {"at": 0.326, "igr": 0.425, "cure": 0.445, "gradalign": 0.445, "logitalign": 0.656}
    | {"consistency": 0.658, "kdsa": 0.348, "advlc": 0.337},
    "fgsm_n": {"at": 0.047, "igr": 0.130, "cure": 0.162, "gradalign": 0.162, "logitalign": 0.095}
    | {"consistency": 0.095, "kdsa": 0.062, "advlc": 0.054},
}
COMPARED = tuple(name for name in OBJECTIVES if name not in ("standard", "at"))
SHAPE, CLASSES = (32, 32, 3), 10


LABELS = {"pgd": "PGD-10", "fgsm_n": "FGSM-N"}


def compare(options: SimpleNamespace) -> Iterator[Comparison]:
    """Yields the step of every objective against that of `at`, then some with the attack as published."""
    from advtf.runtime import start

    runtime = start()
    given = {"dataset": "cifar10", "epochs": 1, "eps_sched": "constant", "augment": False}
    given |= {name: getattr(options, name) for name in ("model", "width", "batch_size")}
    chosen = COMPARED if options.objectives == "all" else options.objectives.split(",")
    with tempfile.TemporaryDirectory() as folder:
        for published, names in ((False, chosen), (True, options.published.split(","))):
            steps = Steps(given, runtime, Path(folder), published=published)
            for adversary in options.adversaries.split(","):
                yield from _objectives(steps, adversary, names, options)


def _objectives(steps, adversary, names, options):
    baseline = steps.of("at", adversary)
    mode = ", attack as published" if steps.published else ""
    for name in names:
        times = timed_in_turn({"own": steps.of(name, adversary), "at": baseline}, options.rounds)
        seconds = PAPER[adversary]
        yield Comparison(
            what=f"{LABELS[adversary]} step, {options.model} w={options.width}{mode}",
            ours=name,
            against="at",
            pairs=times.pairs("own", "at"),
            work=f"{options.batch_size} images",
            facts={"paper_ratio": seconds[name] / seconds["at"] if name in seconds else None},
        )


class Steps:
    """Compiled training steps on one batch.

    Args:
        given: settings common to all, as `advtf.training.settings.resolve` takes them.
        runtime: where they run.
        teachers: folder for two untrained classifiers, the teachers of kdsa.
        published: attack as the published code does.
    """

    def __init__(self, given: dict, runtime: "Runtime", teachers: Path, *, published: bool):
        from advtf.data.sets import from_arrays

        size = given["batch_size"]
        rng = np.random.default_rng(0)
        x, y = rng.random((2 * size, *SHAPE), np.float32), rng.integers(0, CLASSES, 2 * size).astype(np.int32)
        self.data = from_arrays(x, y, x[:8], y[:8], num_classes=CLASSES)
        self._given, self._runtime, self._folder = given, runtime, teachers
        self.published = published

    def of(self, objective: str, adversary: str) -> Callable:
        """Returns a function that runs one step; it has been traced."""
        import tensorflow as tf

        from advtf.training.run import build_trainer

        config = self._config(objective, adversary)
        trainer = build_trainer(config, self.data, self._runtime)
        train = self.data.train
        views = [tf.constant(train.images[part]) for part in _halves(config.batch_size)]
        x = tuple(views) if trainer.objective.views == 2 else views[0]
        batch = x, tf.constant(train.labels[: config.batch_size])
        batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
        trainer.make_train_function()
        trainer.train_function(batches)
        return lambda: float(trainer.train_function(batches)["loss"])

    def _config(self, objective, adversary):
        from advtf.training.settings import TrainConfig

        needs = settings_of(objective)
        needs |= {"teachers": self._teachers()} if objective == "kdsa" else {}
        if self.published and objective != "trades":  # which needs a random start
            noised = adversary == "fgsm_n"
            needs |= {"attack_mode": "training", "random_start": "none", "noised_clean": noised}
        return TrainConfig.of({**self._given, "adversary": adversary, **needs})

    def _teachers(self) -> str:
        from advtf.classifiers.export import export_classifier
        from advtf.training.run import build_classifier
        from advtf.training.settings import TrainConfig

        paths = [self._folder / name for name in ("standard", "robust")]
        for path in paths:
            if not path.exists():
                classifier = build_classifier(TrainConfig.of(self._given), self.data)
                export_classifier(classifier, path, sample=self.data.test.images)
        return ",".join(map(str, paths))


def _halves(size):
    return slice(size), slice(size, 2 * size)
