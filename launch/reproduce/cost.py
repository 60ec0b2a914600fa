"""What runs will cost: estimated, by counting operations, from steps that were measured.

On 2 CPU cores the rate is that of the training steps in docs/results/benchmarks/step.json. The steps of this
package have not been timed on a GPU, so there the rate is that of the steps of the paper on a V100 (Li &
Spratling 2023, Table 1). Other GPUs are scaled by their makers' peak rates in float32, so that the numbers
for them are good for booking hours and for nothing else.

An operation is a multiplication with its addition. A forward pass has as many as the layers have, a gradient
in the image costs as many again, and one in the weights as many again.
"""

import functools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from advtf.data.registry import DATASETS
from advtf.evaluation.attacks import SUITES
from advtf.models import MODELS, features_of, model_settings
from advtf.models.size import CountingLayers
from advtf.studies.run import AnalysisDirectory
from advtf.training.directory import TrainingDirectory
from advtf.training.methods import ADVERSARIES, OBJECTIVES
from launch.common.live import duration
from launch.reproduce.plan import Plan, Planned

STEPS = Path(__file__).parents[2] / "docs" / "results" / "benchmarks" / "step.json"
V100_SECONDS = {"pgd": 0.326, "single": 0.047}  # of a batch of 100, PreActResNet18, as published
PEAKS = {"V100": 15.7, "A100": 19.5, "H100": 66.9}  # TFLOP/s in float32 outside tensor cores, as published
GRADIENT, UPDATE = 2, 3  # passes worth of operations
START_SECONDS = 8  # of a process with one of two cores: imports, graphs, exports
READING_SECONDS = {"cifar10": 3, "mnist": 1}  # of a process likewise: labels, and the images in use
SURVIVORS = 0.4  # of the images of a robust classifier, which every later attack of a suite works on
HESSIAN_PRODUCTS, PRODUCT = 60, 6  # of 20 eigenvalues; passes worth of operations of each
INPUT_PRODUCTS = 40
THEORY_SECONDS = 30  # of the study of linear models, which trains no network
# A training step relative to plain adversarial training, with PGD-10 and FGSM-N, from docs/results/cost.md
OBJECTIVES_COST = {
    "igr": (1.08, 1.87),
    "cure": (1.50, 3.26),
    "gradalign": (1.47, 2.94),
    "logitalign": (1.96, 1.89),
    "consistency": (1.84, 1.71),
    "kdsa": (1.10, 1.29),
    "advlc": (1.04, 1.28),
}


@dataclass(frozen=True)
class Cost:
    """What runs need.

    Attributes:
        cpu_seconds: on the machine of `STEPS`, all cores together.
        gpu_seconds: on a V100.
        operations: in all.
    """

    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    operations: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.cpu_seconds + other.cpu_seconds,
            self.gpu_seconds + other.gpu_seconds,
            self.operations + other.operations,
        )


class CountingOperations(CountingLayers):
    """Counts also multiplications.

    Attributes:
        operations: of one image.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def conv(self, x, filters, size, name, *, stride=1, bias=False):
        """Counts a convolution."""
        out = super().conv(x, filters, size, name, stride=stride, bias=bias)
        height, width = out.shape[1:3]
        self.operations += height * width * size * size * x.shape[-1] * filters
        return out

    def dense(self, x, units, name):
        """Counts a fully connected layer."""
        self.operations += x.shape[-1] * units
        return super().dense(x, units, name)


@functools.cache
def operations(model: str, shape: tuple[int, int, int], classes: int, **settings: int | str | None) -> int:
    """Returns the operations of a forward pass of one image."""
    layers = CountingOperations()
    features = features_of(model)(layers, layers.image(shape), **model_settings(model, **settings))
    layers.logits(features, classes)
    return layers.operations


def of(plan: Plan, runs: Iterable[Planned]) -> Cost:
    """Returns what runs cost in all."""
    return sum((_of_run(plan, run) for run in runs), Cost())


def _of_run(plan, run):
    if run.kind is TrainingDirectory:
        return _training(run.settings)
    trained = plan.needed([run])[0]
    if trained.kind is not TrainingDirectory:
        return Cost(cpu_seconds=THEORY_SECONDS)
    config, settings = trained.settings, run.settings
    analysis = run.kind is AnalysisDirectory
    models = sum(one.kind is TrainingDirectory for one in plan.needed([run]))
    passes = models * _studied(config, settings) if analysis else _evaluated(config, settings, plan)
    return _cost(config, passes, precision="float32", attack="pgd", start=START_SECONDS)


def _training(config):
    train, test, held_out = _images(config)
    steps = config.steps_per_epoch or train // config.batch_size
    adversary = ADVERSARIES[config.adversary]
    attacked = config.adversary != "none" and config.eps and OBJECTIVES[config.objective].attacks
    attack = GRADIENT * adversary.steps(config)[0] if attacked else 0
    pair = OBJECTIVES_COST.get(config.objective, (1.0, 1.0))
    factor = pair[1 if adversary.single_step else 0]
    measured = GRADIENT * config.attack_steps + 1
    seen = steps * config.batch_size * config.epochs
    kind = "single" if adversary.single_step else "pgd"
    training = _cost(config, seen * (attack + UPDATE) * factor, config.precision, kind)
    watched = held_out * config.epochs + (config.eval_examples or test) * len(config.exported)
    return training + _cost(config, watched * measured, "float32", "pgd", START_SECONDS)


def _images(config):
    entry = DATASETS[config.dataset]
    total = entry.examples or 0
    train = (
        entry.training_examples
        or {"mnist": 60_000, "cifar10": 50_000, "tiny_imagenet": 100_000}[config.dataset]
    )
    held_out = math.floor(train * config.val_fraction)
    return config.train_examples or train - held_out, total - train, held_out


def _evaluated(config, settings, plan):
    images = plan.scale.evaluation.get("num_examples") or _images(config)[1]
    steps, restarts = settings.steps, settings.restarts
    names = [
        name
        for chosen in settings.attacks
        for name in (SUITES[chosen].attacks if chosen in SUITES else (chosen,))
    ]
    each = {
        "pgd": GRADIENT * config.attack_steps * restarts,
        "pgd100": GRADIENT * 100 * restarts,
        "apgd_ce": GRADIENT * steps * restarts,
        "apgd_dlr": GRADIENT * steps * restarts,
        "apgd_t": GRADIENT * steps * settings.targets * restarts,
        "fab_t": (GRADIENT + 1) * steps * settings.targets,
        "square": settings.queries,
    }
    return images * SURVIVORS * sum(each.get(name, GRADIENT * steps) for name in names)


def _studied(config, settings):
    count = min(settings.num_examples, _images(config)[0])
    attack = GRADIENT * (settings.attack_steps or config.attack_steps) + 1
    spectrum = HESSIAN_PRODUCTS * PRODUCT * count
    surface = settings.surface_points**settings.surface_dims
    moves = settings.runs * len(settings.offsets) * 2 * 2 * 2  # signs, directions, train and test
    passes = {
        "hessian": spectrum + settings.normalise_draws * count * attack,
        "similarity": spectrum + moves * count * attack,
        "surface": spectrum + surface * count * attack,
        "connectivity": settings.curve_epochs * count * (attack + UPDATE)
        + 3 * 2 * settings.curve_points * count * attack,
        "dynamics": count * attack,
        "input": 2 * count * (attack + GRADIENT * settings.reference_steps)
        + 2 * min(settings.hs_examples, count) * INPUT_PRODUCTS * PRODUCT,
    }
    return sum(passes.get(name, 0) for name in settings.study)


def _cost(config, passes, precision, attack, start=0.0):
    entry = DATASETS[config.dataset]
    height, width, channels = entry.input_shape or (64, 64, 3)
    if config.image_size:
        height = width = config.image_size
    network = {name: value for name, value in config.network.items() if value is not None}
    single = operations(config.model, (height, width, channels), entry.num_classes or 200, **network)
    total = float(single) * passes
    family = "LeNet" if MODELS[config.model].family == "small" else "ResNet18"
    if start:
        start += READING_SECONDS.get(config.dataset, 0)
    return Cost(total / cpu_rate(family, precision) + start, total / v100_rate(attack) + start, total)


@functools.cache
def cpu_rate(family: str, precision: str) -> float:
    """Returns the operations per second of the measured PGD-10 steps, "LeNet" or "ResNet18"."""
    rows = json.loads(STEPS.read_text(encoding="utf-8"))["comparisons"]
    kind = "bfloat16" if precision == "bfloat16" else "float32"
    row = next(
        row for row in rows if row["what"].startswith(f"PGD-10 step, {family}") and row["ours"].endswith(kind)
    )
    images = int(row["work"].split()[0])
    if family == "LeNet":
        single = operations("lenet", (28, 28, 1), 10, width=16)
    else:
        single = operations("resnet18", (32, 32, 3), 10, width=8)
    return images * single * (10 * GRADIENT + UPDATE) / row["ours_median"]


@functools.cache
def v100_rate(attack: str) -> float:
    """Returns the operations per second of the published steps, "pgd" or "single"."""
    passes = {"pgd": 10 * GRADIENT + UPDATE, "single": GRADIENT + UPDATE}[attack]
    single = operations("preact_resnet18", (32, 32, 3), 10, width=16)
    return 100 * single * passes / V100_SECONDS[attack]


def told(cost: Cost, scale: str) -> str:
    """Returns the cost in a few words: hours of GPUs at the full scale, else time on 2 cores."""
    if scale != "full":
        return f"about {duration(cost.cpu_seconds)} on 2 cores"
    hours = (
        f"{name} {_hours(cost.gpu_seconds / 3600 * PEAKS['V100'] / peak)}" for name, peak in PEAKS.items()
    )
    return ", ".join(hours)


def _hours(hours):
    return f"{hours:.0f} h" if hours >= 10 else f"{hours:.1f} h"


def source(scale: str) -> str:
    """Returns where the estimates come from."""
    if scale != "full":
        return (
            "Costs are estimated by counting operations, at the rate of the training steps that were "
            "measured on 2 cores (docs/results/cost.md); narrower networks take up to twice as long. The "
            "time beside the seeds that were measured is that of their runs one after another, with those "
            "that other entries share."
        )
    return (
        "Hours of one GPU, estimated and not measured: operations are counted, at the rate of the steps that "
        "Li & Spratling 2023 measured on a V100 (Table 1); the other GPUs by peak rates in float32. Small "
        "networks such as LeNet do not fill a GPU, so that theirs take longer."
    )
