"""The settings of a training run: two frozen dataclasses, checked when made; flags and JSON follow from them.

No TensorFlow and no NumPy here, so that a wrong flag is answered at once. `advtf.settings.flags` makes the
flags, `advtf.training.presets` holds the values that depend on the data set and the model.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from advtf.errors import UsageError, nearest
from advtf.models import ACTIVATIONS, MODELS
from advtf.settings.fields import (
    choice,
    normalise,
    number,
    numbers,
    parse_value,
    real,
    relative_step,
    setting,
    step_size,
    switch,
    text,
    whole,
)
from advtf.training.averaging_settings import AveragingSettings
from advtf.training.method_settings import MethodSettings, fill_method
from advtf.training.presets import preset
from advtf.training.rules import check

Settings = TypeVar("Settings")
DATASET_NAME = text(
    r"[A-Za-z0-9_]+([/:][A-Za-z0-9_.-]+)*", "a data set name such as digits, mnist or cifar10"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(AveragingSettings, MethodSettings):
    """Everything that determines the numbers of a training run; `resolve` fills what is not given.

    Values may be flag text (``eps="8/255"``); fractional `periods` become whole epochs.

    Raises:
        UsageError: a bad value, or settings that contradict each other.
    """

    dataset: str = setting("data", DATASET_NAME, "digits (embedded), or an image data set of TFDS", "digits")
    image_size: int | None = setting("data", whole(8), "resize images to this square, in pixels", None)
    val_fraction: float = setting("data", real(0, 0.5), "part of the training data held out for validation")
    select_on: str = setting(
        "data", choice("validation", "test"), "images that pick the best epoch", "validation"
    )
    augment: bool = setting("data", switch(), "random crop and horizontal flip of training images")
    batch_size: int = setting("data", whole(1), "images per step, over all devices")

    model: str = setting("model", choice(*MODELS), "the architecture")
    width: int | None = setting("model", whole(1), "width factor; of wide_resnet the widening")
    depth: int | None = setting("model", whole(10), "number of layers; wide_resnet only")
    activation: str = setting("model", choice(*ACTIVATIONS), "the nonlinearity", "relu")

    norm: str = setting("attack", choice("linf", "l2"), "norm of the perturbation", "linf")
    eps: float = setting("attack", real(), "radius of the perturbation, for pixels in [0, 1]")
    attack_steps: int = setting("attack", whole(1), "gradient steps of the PGD attack")
    attack_step_size: str = setting("attack", step_size(), "0.01, 2/255, or a part of ε: eps/4, 0.25eps")
    random_start: str = setting(
        "attack",
        choice("uniform", "step", "none"),
        "start of PGD: in the ball, within one step, at x",
        "uniform",
    )

    eps_sched: str = setting("epsilon", choice("constant", "linear", "cosine"), "ε over a period", "cosine")
    eps_min: float = setting("epsilon", real(), "ε at the start of a period", 0.0)
    eps_max: float | None = setting("epsilon", real(), "end of the curve, which is clipped at eps")
    epochs: int = setting("epsilon", whole(1), "length of the training")
    steps_per_epoch: int | None = setting("epsilon", whole(1), "shorter epochs than the whole data", None)
    periods: tuple[int | float, ...] = setting(
        "epsilon",
        numbers("epochs (100,150), fractions of the training (0.5,0.75) or none"),
        "where ε and the learning rate restart: epochs, or fractions of the training",
    )
    schedule_unit: str = setting(
        "epsilon", choice("epoch", "step"), "how often the schedules advance", "epoch"
    )

    optimizer: str = setting("optimizer", choice("sgd", "adam"), "the optimizer")
    lr: float = setting("optimizer", real(open_low=True), "learning rate")
    lr_sched: str = setting(
        "optimizer",
        choice("constant", "step", "exponential", "cosine", "warmup"),
        "learning rate over a period",
    )
    lr_milestones: tuple[int | float, ...] = setting(
        "optimizer",
        numbers("fractions of a period such as 0.5,0.75"),
        "fractions of a period: where lr is multiplied by lr_factor; exponential: begin,end",
    )
    lr_factor: float = setting(
        "optimizer", real(0, 1, open_low=True), "step: factor at each milestone; exponential: factor in all"
    )
    lr_warmup: float = setting("optimizer", real(), "warmup: epochs, or a fraction of a period below 1")
    momentum: float = setting("optimizer", real(0, 0.9999), "momentum of sgd")
    nesterov: bool = setting("optimizer", switch(), "Nesterov's momentum", False)
    weight_decay: float = setting("optimizer", real(), "L2 penalty in PyTorch's sense, added to the gradient")
    decoupled_weight_decay: bool = setting(
        "optimizer", switch(), "decay the weights directly, as AdamW", False
    )
    reset_optimizer: bool = setting("optimizer", switch(), "clear momentum and moments at each period", False)

    precision: str = setting(
        "compute", choice("float32", "bfloat16"), "arithmetic of the training", "float32"
    )
    jit: str = setting("compute", choice("auto", "on", "off"), "XLA; auto: on a single GPU", "auto")
    strategy: str = setting("compute", choice("none", "mirrored"), "mirrored: all local GPUs", "none")
    seed: int = setting("compute", whole(0, 2**31 - 1), "of weights, order, augmentation and attacks", 0)

    eval_examples: int | None = setting("evaluation", whole(1), "first test images only; none: all", None)
    eval_restarts: int = setting("evaluation", whole(1), "random starts of the final PGD", 1)

    def __post_init__(self) -> None:
        normalise(self)
        fill_method(self)
        object.__setattr__(self, "periods", period_epochs(self.periods, self.epochs))
        check(self)

    @property
    def relative_step(self) -> float:
        """The attack's step size divided by ε; 1 at ε = 0, where it has no effect."""
        return relative_step(self.attack_step_size, self.eps)

    @property
    def run_name(self) -> str:
        """Default name of the run: ``<dataset>-<model>-<eps_sched>-seed<seed>``."""
        dataset = self.dataset.replace("/", "_").replace(":", "_")
        return f"{dataset}-{self.model}-{self.eps_sched}-seed{self.seed}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where a run reads and writes and what it shows; none of it changes the numbers."""

    data_dir: str | None = setting(
        "files",
        text(),
        "prepared TFDS or Tiny ImageNet data; else TFDS_DATA_DIR, ~/tensorflow_datasets",
        None,
    )
    out_dir: str | None = setting(
        "files", text(), "results; default runs/<dataset>-<model>-<eps_sched>-seed<seed>", None
    )
    export_dir: str | None = setting("files", text(), "exported models; default saved_models/<run>", None)
    resume: bool = setting("files", switch(), "continue the run in out_dir", False)
    overwrite: bool = setting("files", switch(), "replace the run in out_dir", False)
    checkpoint_minutes: float = setting(
        "files", real(open_low=True), "between checkpoints inside an epoch", 10.0
    )
    dynamics_steps: int | None = setting(
        "files", whole(1), "record so many first and last updates in dynamics.npz; none: nothing", None
    )
    input_every: int | None = setting(
        "files", whole(1), "log the input loss landscape every so many epochs; none: never", None
    )
    input_examples: int = setting("files", whole(1), "of it: training and validation images", 200)
    histograms: bool = setting("files", switch(), "weight histograms in TensorBoard", False)
    verbose: bool = setting("files", switch(), "show TensorFlow's start-up messages", False)

    def __post_init__(self) -> None:
        normalise(self)
        if self.resume and self.overwrite:
            raise UsageError(
                "resume and overwrite exclude each other. Received: resume=True, overwrite=True."
            )


def resolve(given: Mapping[str, Any]) -> TrainConfig:
    """Completes what the user chose with presets and defaults.

    Args:
        given: setting -> value or flag text; None means not given.

    Raises:
        UsageError: an unknown setting, a bad value or contradictory settings.
    """
    chosen = _parsed(TrainConfig, given)
    names = ("model", "norm", "eps", "eps_sched", "optimizer", "lr_sched")
    base = preset(chosen.get("dataset", "digits"), **{name: chosen[name] for name in names if name in chosen})
    if chosen.get("select_on") == "test":
        base["val_fraction"] = 0.0  # nothing needs to be held out
    return TrainConfig(**{**base, **chosen})


def resolve_options(given: Mapping[str, Any]) -> RunOptions:
    """As `resolve`, for where and how to run."""
    return RunOptions(**_parsed(RunOptions, given))


def period_epochs(periods: Sequence[float], epochs: int) -> tuple[int, ...]:
    """Returns the starts of the periods after the first, in whole epochs.

    Fractions of the training are rounded (halves up); those that a short training moves onto another start
    or onto its end are dropped. Epochs are taken as they are.

    Raises:
        UsageError: epochs that are not whole or not inside the training, or mixed with fractions.
    """
    if all(0 < period < 1 for period in periods):
        starts = {math.floor(number(period) * epochs + 0.5) for period in periods}
        return tuple(sorted(start for start in starts if 0 < start < epochs))
    if not all(isinstance(period, int) and 0 < period < epochs for period in periods):
        raise UsageError(
            f"periods must be whole epochs inside (0, epochs={epochs}), or all fractions such as 0.5,0.75. "
            f"Received: periods={','.join(map(str, periods))}."
        )
    return tuple(periods)


def to_json(config: TrainConfig | RunOptions) -> dict[str, Any]:
    """Returns the settings as JSON values."""
    values = dataclasses.asdict(config)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def from_json(cls: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Rebuilds settings written by `to_json`.

    Raises:
        UsageError: an unknown, missing or bad setting.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"{cls.__name__} must be a JSON object. Received: {type(values).__name__}.")
    missing = [field.name for field in dataclasses.fields(cls) if field.name not in values]
    if missing:
        raise UsageError(f"{cls.__name__} needs every setting. Received: none for {', '.join(missing)}.")
    _refuse_unknown(cls, values)
    return cls(**values)


def _parsed(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    _refuse_unknown(cls, given)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    parsed = {name: parse_value(fields[name], value) for name, value in given.items() if value is not None}
    return {name: value for name, value in parsed.items() if value is not None}


def _refuse_unknown(cls: type, names: Iterable[str]) -> None:
    known = [field.name for field in dataclasses.fields(cls)]
    for name in names:
        if name not in known:
            raise UsageError(f"{cls.__name__} has no such setting. Received: {name}.{nearest(name, known)}")
