"""What an objective costs: its training step against that of adversarial training with the same adversary.

    python -m launch.benchmarks.objectives [--model=preact_resnet18 --width=8] [--rounds=7]

Random images of CIFAR's shape in batches of 100. The compiled steps of an objective and of `at` are timed in
turn, and the median of their ratios is printed beside the ratio of the paper's times (Li & Spratling 2023,
Table 1, on a V100). First calls trace; they are left out.

A step of `at` here also measures accuracy on clean images, a forward pass that some objectives need anyway
and others do not. It is left out on both sides unless `--metrics` is given: then whole steps are timed, as a
training makes them.

What can be expected: count a forward pass as 1, the gradient of the images as 1 more, that of the weights
(and the layers between) as 2 more. PGD-10 is 20 and `at` 23 in all, FGSM-N is 2 and `at` 5. A second pass
through which weights get gradients adds 3: AdvLC takes 26/23 = 1.13 and 8/5 = 1.6 of `at`. With
`--published` the attack is in training mode, PGD starts at the image and the clean branch of FGSM-N sees the
noised one; AdvLC's clean pass then is the attack's first: 25/23 = 1.09 and 7/5 = 1.4. Where a step is more
than its arithmetic, in eager PyTorch or with the metrics, the ratios are nearer to 1.
"""

import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from advtf.runtime import Runtime, start
from advtf.settings.commands import exit_on_usage_error
from advtf.storage.files import provenance, write_json
from advtf.training.settings import TrainConfig
from launch.common.arguments import parser
from launch.common.objectives import OBJECTIVES, settings_of
from launch.common.timing import timed_in_turn

# Seconds per batch in Table 1, by adversary and objective.
PAPER = {
    "pgd": {"at": 0.326, "igr": 0.425, "cure": 0.445, "gradalign": 0.445, "logitalign": 0.656}
    | {"consistency": 0.658, "kdsa": 0.348, "advlc": 0.337},
    "fgsm_n": {"at": 0.047, "igr": 0.130, "cure": 0.162, "gradalign": 0.162, "logitalign": 0.095}
    | {"consistency": 0.095, "kdsa": 0.062, "advlc": 0.054},
}
COMPARED = tuple(name for name in OBJECTIVES if name not in ("standard", "at"))
SHAPE, CLASSES = (32, 32, 3), 10


@dataclass(frozen=True)
class Cost:
    """Seconds of an objective's step and of `at`'s, a pair a round."""

    adversary: str
    objective: str
    seconds: tuple[tuple[float, float], ...]

    @property
    def ratios(self) -> list[float]:
        """Of the objective to `at`, by round."""
        return [own / baseline for own, baseline in self.seconds]

    @property
    def paper(self) -> float | None:
        """The ratio of the paper's times; None where it has none."""
        times = PAPER[self.adversary]
        return times[self.objective] / times["at"] if self.objective in times else None

    def to_json(self) -> dict:
        """Returns the seconds and the ratios."""
        numbers = {"ratio": statistics.median(self.ratios), "paper_ratio": self.paper}
        return dataclasses.asdict(self) | numbers

    def __str__(self) -> str:
        own, baseline = (statistics.median(column) for column in zip(*self.seconds, strict=True))
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        paper = f"{self.paper:.2f}" if self.paper else "–"
        ratio = statistics.median(self.ratios)
        line = f"{self.adversary:<10}{self.objective:<13}{own:>9.4f}{baseline:>9.4f}"
        return f"{line}{ratio:>8.3f}{paper:>8}   {spread}"


class Steps:
    """Compiled training steps on one batch.

    Args:
        given: settings common to all, as `advtf.training.settings.resolve` takes them.
        runtime: where they run.
        teachers: folder for two untrained classifiers, the teachers of kdsa.
        metrics: whether a step also measures accuracies for which the objective needs no pass.
        published: attack as the published code does.
    """

    def __init__(self, given: dict, runtime: Runtime, teachers: Path, *, metrics: bool, published: bool):
        from advtf.data.sets import from_arrays

        size = given["batch_size"]
        rng = np.random.default_rng(0)
        x, y = rng.random((2 * size, *SHAPE), np.float32), rng.integers(0, CLASSES, 2 * size).astype(np.int32)
        self.data = from_arrays(x, y, x[:8], y[:8], num_classes=CLASSES)
        self._given, self._runtime, self._folder = given, runtime, teachers
        self._metrics, self._published = metrics, published

    def of(self, objective: str, adversary: str) -> Callable:
        """Returns a function that runs one step; it has been traced."""
        import tensorflow as tf

        from advtf.training.run import build_trainer

        config = self._config(objective, adversary)
        trainer = build_trainer(config, self.data, self._runtime)
        if not self._metrics:
            trainer.objective = _unmeasured(trainer.objective)
        train = self.data.train
        views = [tf.constant(train.images[part]) for part in _halves(config.batch_size)]
        x = tuple(views) if trainer.objective.views == 2 else views[0]
        batch = x, tf.constant(train.labels[: config.batch_size])
        batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
        trainer.make_train_function()
        trainer.train_function(batches)
        return lambda: float(trainer.train_function(batches)["loss"])

    def _config(self, objective: str, adversary: str) -> TrainConfig:
        needs = settings_of(objective)
        needs |= {"teachers": self._teachers()} if objective == "kdsa" else {}
        if self._published and objective != "trades":  # which needs a random start
            noised = adversary == "fgsm_n"
            needs |= {"attack_mode": "training", "random_start": "none", "noised_clean": noised}
        return TrainConfig.of({**self._given, "adversary": adversary, **needs})

    def _teachers(self) -> str:
        from advtf.classifiers.export import export_classifier
        from advtf.training.run import build_classifier

        paths = [self._folder / name for name in ("standard", "robust")]
        for path in paths:
            if not path.exists():
                classifier = build_classifier(TrainConfig.of(self._given), self.data)
                export_classifier(classifier, path, sample=self.data.test.images)
        return ",".join(map(str, paths))


def _halves(size):
    return slice(size), slice(size, 2 * size)


def _unmeasured(objective):
    """The objective with accuracies of 0 where it gives none, so that the step does not look for them."""
    import tensorflow as tf

    def losses(logits_fn, batch):
        values, accuracies = objective.losses(logits_fn, batch)
        zeros = tf.zeros_like(values)
        return values, {"clean_accuracy": zeros, "robust_accuracy": zeros} | accuracies

    return dataclasses.replace(objective, losses=losses)


def costs(steps: Steps, adversaries: list[str], objectives: list[str], rounds: int) -> Iterator[Cost]:
    """Times every objective against `at`."""
    for adversary in adversaries:
        baseline = steps.of("at", adversary)
        for objective in objectives:
            yield Cost(adversary, objective, timed_in_turn(steps.of(objective, adversary), baseline, rounds))


def main():
    made = parser(__doc__)
    made.add_argument("--model", default="preact_resnet18")
    made.add_argument("--width", type=int, default=8)
    made.add_argument("--batch_size", type=int, default=100)
    made.add_argument("--objectives", nargs="+", default=COMPARED, choices=COMPARED)
    made.add_argument("--adversaries", nargs="+", default=tuple(PAPER), choices=tuple(PAPER))
    made.add_argument("--rounds", type=int, default=7)
    made.add_argument("--metrics", action="store_true", help="time whole steps")
    made.add_argument("--published", action="store_true", help="attack as the published code does")
    made.add_argument("--jit", default="auto")
    made.add_argument("--out", default="runs/benchmark_objectives.json")
    chosen = made.parse_args()
    runtime = start(jit=chosen.jit)
    given = {"dataset": "cifar10", "epochs": 1, "eps_sched": "constant", "augment": False}
    given |= {name: getattr(chosen, name) for name in ("model", "width", "batch_size", "jit")}
    print(f"{runtime.device}; {chosen.model} w={chosen.width}, batches of {chosen.batch_size}\n")
    columns = f"{'step, s':>9}{'at, s':>9}{'ratio':>8}{'paper':>8}   of all rounds"
    print(f"{'adversary':<10}{'objective':<13}{columns}")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        modes = {"metrics": chosen.metrics, "published": chosen.published}
        steps = Steps(given, runtime, Path(folder), **modes)
        for cost in costs(steps, chosen.adversaries, chosen.objectives, chosen.rounds):
            found.append(cost)
            print(cost, flush=True)
    results = {"arguments": vars(chosen), "device": runtime.device}
    Path(chosen.out).parent.mkdir(parents=True, exist_ok=True)
    write_json(Path(chosen.out), provenance() | results | {"costs": [cost.to_json() for cost in found]})


if __name__ == "__main__":
    with exit_on_usage_error():
        main()
