"""The settings of a training run: declared once, completed by presets and registries, checked when made.

`TrainConfig` holds everything that determines the numbers of a run, `RunOptions` where it reads and writes.
The flags of ``python -m advtf.main`` and the JSON of `config.json` follow from their fields. This module
imports neither TensorFlow nor NumPy, so that a wrong flag is answered at once.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from advtf.data.registry import PLACES, order_setting, require_order
from advtf.errors import UsageError, alternatives, quantity, show_text
from advtf.models import (
    ACTIVATIONS,
    MODEL_SETTINGS,
    MODELS,
    VARIANTS,
    describe_network,
    earlier_variant,
    model_settings,
)
from advtf.settings import compute
from advtf.settings.commands import CommandOptions
from advtf.settings.fields import (
    OPEN,
    Parser,
    Settings,
    choice,
    number,
    numbers,
    parse_value,
    real,
    setting,
    show,
    step_size,
    switch,
    text,
    whole,
)
from advtf.settings.threat import (
    NORMS,
    RANDOM_STARTS,
    describe_pgd,
    format_epsilon,
    relative_step,
    require_radius,
    require_step,
)
from advtf.training.methods import ADVERSARIES, ATTACK_MODES, DISTANCES, OBJECTIVES, WHOLE_BATCH
from advtf.training.presets import DEPENDS_ON, OPTIMIZERS, preset, preset_table
from advtf.training.schedules import (
    ARGUMENTS,
    EPSILONS,
    RATES,
    UNITS,
    UNUSED,
    ScheduleError,
    epsilon_schedule,
    rate_schedule,
)

DATASET_NAME = text(
    r"[A-Za-z0-9_-]+([/:][A-Za-z0-9_.-]+)*", "a data set name such as digits, mnist or cifar10"
)
AVERAGES = ("swa", "ema")
PRECISIONS = ("float32", "tf32", "bfloat16")


def _paths(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else list(value)
    paths = tuple(part for part in parts if part and part != "none")
    if len(paths) not in (0, 2):
        raise ValueError("two paths")
    return paths


TWO_PATHS = Parser(_paths, "two SavedModels with a comma between: the standard teacher, the robust one")
TEMPERATURES = ", ".join(
    f"{name} {entry.defaults['temperature']:g}"
    for name, entry in OBJECTIVES.items()
    if "temperature" in entry.defaults
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """Everything that determines the numbers of a training run; a preset stands for what is not given.

    Values may be flag text (``eps="8/255"``); fractional `periods` become whole epochs.

    Raises:
        UsageError: a bad value, or settings that contradict each other.
    """

    dataset: str = setting("data", DATASET_NAME, "digits (embedded), or an image data set of TFDS", "digits")
    order: str = order_setting("data")
    image_size: int | None = setting("data", whole(8), "resize images to this square, in pixels", None)
    val_fraction: float = setting("data", real(0, 0.5), "part of the training data held out for validation")
    train_examples: int | None = setting(
        "data",
        whole(1),
        "train on so many images of the rest, a stratified subset by a fixed rule",
        None,
        "all",
        earlier=None,
    )
    select_on: str = setting(
        "data", choice(("validation", "test")), "images that pick the best epoch", "validation"
    )
    augment: bool = setting("data", switch(), "random crop and horizontal flip of training images")
    batch_size: int = setting("data", whole(1), "images per step, over all devices")

    model: str = setting("model", choice(MODELS), "the architecture")
    width: int | None = setting("model", whole(1), "width factor of the layers")
    depth: int | None = setting("model", whole(10), "number of layers, for wide_resnet")
    shortcut: str | None = setting(
        "model",
        choice(VARIANTS["shortcut"]),
        "input of the 1×1 shortcuts, for preact_resnet18, wide_resnet; activated: the textbook's",
        earlier=lambda stored: earlier_variant(stored.get("model"), "shortcut"),
    )
    stride_in: str | None = setting(
        "model",
        choice(VARIANTS["stride_in"]),
        "the convolution of a block that strides, for wide_resnet; first: the textbook's",
        earlier=lambda stored: earlier_variant(stored.get("model"), "stride_in"),
    )
    activation: str = setting("model", choice(ACTIVATIONS), "the nonlinearity", "relu")

    norm: str = setting("attack", choice(NORMS), "norm of the perturbation", "linf")
    eps: float = setting("attack", real(), "radius of the perturbation, for pixels in [0, 1]")
    attack_steps: int = setting("attack", whole(1), "gradient steps of the PGD attack")
    attack_step_size: str = setting(
        "attack", step_size(), "length of a step: 0.01, 2/255, or a part of ε: eps/4, 0.25eps"
    )
    random_start: str = setting(
        "attack",
        choice(RANDOM_STARTS),
        "start of PGD: anywhere in the ball, within one step, or at the image",
        "uniform",
    )

    objective: str = setting("method", choice(OBJECTIVES), "what is minimised", "at")
    adversary: str = setting("method", choice(ADVERSARIES), "the attack on the training batches", "pgd")
    strength: float | None = setting("method", real(), "weight of the penalty", None, "the paper's")
    strength_ramp: bool = setting(
        "method", switch(), "raise the strength linearly: (k + 1)/K of it in epoch k of K", False
    )
    advlc_fraction: float = setting(
        "method", real(0, 1, open_low=True), "advlc: part of the batch's logits that is penalised", 0.1
    )
    advlc_distance: str = setting("method", choice(DISTANCES), "advlc: distance of the logits", "top")
    temperature: float | None = setting(
        "method", real(open_low=True), "divides logits before the softmax", None, TEMPERATURES
    )
    teachers: tuple[str, ...] = setting(
        "method", TWO_PATHS, "kdsa: the standard and the robust teacher, two SavedModels", ()
    )
    noised_clean: bool = setting(
        "method", switch(), "fgsm_n: take the noised images for the clean ones, as published", False
    )
    attack_mode: str = setting(
        "method", choice(ATTACK_MODES), "mode of BatchNorm during the attack", "inference"
    )
    awp: float = setting("method", real(), "γ of adversarial weight perturbation, such as 0.005", 0.0)

    eps_sched: str = setting("epsilon", choice(EPSILONS), "course of ε over a period")
    eps_min: float = setting("epsilon", real(), "ε at the start of a period", 0.0)
    eps_max: float | None = setting("epsilon", real(), "end of the course of ε, which is clipped at eps")
    epochs: int = setting("epsilon", whole(1), "length of the training, in epochs")
    steps_per_epoch: int | None = setting(
        "epsilon", whole(1), "number of steps of every epoch, to shorten it; none: all the data", None
    )
    periods: tuple[int | float, ...] = setting(
        "epsilon",
        numbers("epochs (100,150), fractions of the training (0.5,0.75) or none"),
        "where ε and the learning rate restart: epochs, or fractions of the training",
    )
    schedule_unit: str = setting("epsilon", choice(UNITS), "how often the schedules advance", "epoch")

    optimizer: str = setting("optimizer", choice(OPTIMIZERS), "the optimizer")
    lr: float = setting("optimizer", real(open_low=True), "learning rate")
    lr_sched: str = setting("optimizer", choice(RATES), "course of the learning rate over a period")
    lr_milestones: tuple[int | float, ...] = setting(
        "optimizer",
        numbers("fractions of a period such as 0.5,0.75"),
        "fractions of a period: where lr is multiplied by lr_factor; exponential: begin,end",
    )
    lr_factor: float = setting(
        "optimizer",
        real(0, 1, open_low=True),
        "step: factor at each milestone; exponential: factor of the whole decay",
    )
    lr_warmup: float = setting(
        "optimizer", real(), "warmup: its length in epochs, or below 1 as a fraction of a period"
    )
    momentum: float = setting("optimizer", real(0, 0.9999), "momentum, for sgd")
    nesterov: bool = setting("optimizer", switch(), "use Nesterov's momentum", False)
    weight_decay: float = setting("optimizer", real(), "L2 penalty in PyTorch's sense, added to the gradient")
    decoupled_weight_decay: bool = setting(
        "optimizer", switch(), "decay the weights directly, as in AdamW", False
    )
    reset_optimizer: bool = setting(
        "optimizer", switch(), "clear momentum and moments where a period starts", False
    )

    averaging: str = setting(
        "averaging",
        choice(("none", *AVERAGES)),
        "average of the weights; swa: mean; ema: exponential",
        "none",
    )
    swa_start: float = setting(  # epoch 50 of 200, as in Li & Spratling 2023
        "averaging", real(), "swa: the epoch where it starts, or a fraction of the training", 0.25
    )
    swa_every: int | None = setting(
        "averaging", whole(1), "swa: steps between two weights; none: the steps of an epoch", None
    )
    ema_decay: float = setting(
        "averaging", real(0, 0.999999), "ema: part of the old average that each step keeps", 0.999
    )

    precision: str = setting(
        "compute",
        choice(PRECISIONS),
        "arithmetic of the training; all that is measured is measured in float32",
        "float32",
    )
    jit: str = compute.jit()
    deterministic: bool = compute.deterministic()
    strategy: str = setting(
        "compute",
        choice(("none", "mirrored", "multi_worker")),
        "devices; mirrored: all GPUs of this machine; multi_worker: those of all machines in TF_CONFIG",
        "none",
    )
    seed: int = compute.seed("weights, order, augmentation and attacks")

    eval_examples: int | None = setting(
        "evaluation", whole(1), "measure the first test images only; none: all", None
    )
    eval_restarts: int = setting(
        "evaluation", whole(1), "random starts of the PGD that measures the result", 1
    )

    def completed(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns presets for what is not given, the objective's defaults, and the periods in epochs."""
        values = preset(given["dataset"], **{name: given[name] for name in DEPENDS_ON if name in given})
        if given["select_on"] == "test":
            values["val_fraction"] = 0.0  # nothing needs to be held out
        variants = {name: values[name] for name in VARIANTS if given.get(name) is None}
        values = {**values, **given}
        found = {name: values[name] for name in values if name not in given}
        entry = OBJECTIVES[given["objective"]]
        if given["strength"] is None and entry.strength:
            single_step = ADVERSARIES[given["adversary"]].single_step
            found["strength"] = entry.strength[0 if single_step else 1]
        found |= {name: value for name, value in entry.defaults.items() if given[name] is None}
        return found | variants | {"periods": period_epochs(values["periods"], values["epochs"])}

    def check(self) -> None:
        """Checks the settings against each other, in the order in which ``--help`` lists them.

        Raises:
            UsageError: two settings contradict each other.
        """
        require_order(self.dataset, self.order)
        model_settings(self.model, **self.network)
        _check_threat(self)
        _check_epsilon_schedule(self)
        _check_rate_schedule(self)
        _check_optimizer(self)
        _check_method(self)
        _check_averaging(self)
        if self.select_on == "test" and self.val_fraction:
            raise UsageError(
                "select_on=test leaves validation images without a use. "
                f"Received: val_fraction={self.val_fraction:g}; use --val_fraction=0."
            )
        compute.check(self)
        if self.strategy != "none" and self.jit == "on":
            raise UsageError(
                "jit=on works on one device only, because TensorFlow compiles no step under a strategy. "
                f"Received: jit=on, strategy={self.strategy}; use --jit=auto."
            )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Does what `Settings.from_json` does, and refuses a ramp of the strength that is no longer made.

        Raises:
            UsageError: as there; or the run was begun when the ramp was another one.
        """
        # The ramp was changed together with the arrival of `order`.
        if isinstance(values, Mapping) and values.get("strength_ramp") and "order" not in values:
            raise UsageError(
                "strength_ramp must be that of this version, (k + 1)/K in epoch k of K. Received: a run of "
                "an earlier version, whose ramp was k/(K − 1). Start anew, with --overwrite or another "
                "--out_dir."
            )
        return super().from_json(values)

    def require_same(self, given: Mapping[str, Any], noun: str) -> None:
        """Does what `Settings.require_same` does; periods may be given as fractions again."""
        if "periods" in given:
            fields = {field.name: field for field in dataclasses.fields(self)}
            periods = parse_value(fields["periods"], given["periods"])
            given = {**given, "periods": period_epochs(periods, self.epochs)}
        super().require_same(given, noun)

    def epsilon_schedule(self) -> Callable[[float], float]:
        """Returns ε as a function of the position in epochs."""
        with _called_by_settings():
            return epsilon_schedule(
                self.eps_sched,
                target=self.eps,
                minimum=self.eps_min,
                maximum=self.eps_max,
                boundaries=self.periods,
                epochs=self.epochs,
            )

    def rate_schedule(self) -> Callable[[float], float]:
        """Returns the learning rate as a function of the position in epochs."""
        with _called_by_settings():
            return rate_schedule(
                self.lr_sched,
                self.lr,
                milestones=self.lr_milestones,
                factor=self.lr_factor,
                warmup=self.lr_warmup,
                boundaries=self.periods,
                epochs=self.epochs,
            )

    @property
    def relative_step(self) -> float:
        """The attack's step size divided by ε; 1 at ε = 0, where it has no effect."""
        return relative_step(self.attack_step_size, self.eps)

    @property
    def swa_start_epoch(self) -> int:
        """After how many epochs the first weights enter the average of SWA (halves round up)."""
        start = self.swa_start
        return math.floor(start * self.epochs + 0.5) if start < 1 else int(start)

    @property
    def network(self) -> dict[str, Any]:
        """The settings of the model by name, as `advtf.models.model_settings` takes them."""
        return {name: getattr(self, name) for name in MODEL_SETTINGS}

    @property
    def exported(self) -> list[str]:
        """The names of the classifiers that a run measures and exports, in the order of its results."""
        names = ["last", "best"] if self.val_fraction or self.select_on == "test" else ["last"]
        if self.averaging != "none":
            names += [f"{self.averaging}_{name}" for name in names]
        if self.periods:
            names += [f"period{number + 1}" for number in range(len(self.periods) + 1)] + ["ensemble"]
        return names

    @property
    def run_name(self) -> str:
        """Default name of the run: ``<dataset>-<model>-<eps_sched>-seed<seed>``."""
        dataset = self.dataset.replace("/", "_").replace(":", "_")
        return f"{dataset}-{self.model}-{self.eps_sched}-seed{self.seed}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(CommandOptions):
    """Where a training run reads and writes and what it shows; none of it changes the numbers."""

    out_dir: str | None = setting(
        "files", text(), "folder of the results; default runs/<dataset>-<model>-<eps_sched>-seed<seed>", None
    )
    export_dir: str | None = setting(
        "files", text(), "folder of the exported models; default saved_models/<run>", None
    )
    checkpoint_minutes: float = setting(
        "files", real(open_low=True), "minutes between two checkpoints inside an epoch", 10.0
    )
    dynamics_steps: int | None = setting(
        "files", whole(1), "number of first and of last updates in dynamics.npz; none: no such file", None
    )
    input_every: int | None = setting(
        "files", whole(1), "epochs between two logs of the input loss landscape; none: no log", None
    )
    input_examples: int = setting(
        "files", whole(1), "images of the input loss landscape, of training and of validation data each", 200
    )
    images: str = setting(
        "files",
        choice(PLACES),
        "where the images are: read into memory or, of ArrayRecord files of TFDS, on the disk",
        "auto",
        earlier="auto",
    )
    histograms: bool = setting("files", switch(), "write histograms of the weights for TensorBoard", False)


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
            f"Received: periods={show_text(','.join(map(str, periods)))}."
        )
    return tuple(periods)


@contextlib.contextmanager
def _called_by_settings() -> Iterator[None]:
    """Lets the errors of schedules call arguments by the settings that they come from."""
    try:
        yield
    except ScheduleError as error:
        raise error.in_terms_of(ARGUMENTS) from None


def _check_threat(config: TrainConfig) -> None:
    require_radius("eps", config.eps, config.norm)
    require_radius("eps_min", config.eps_min, config.norm)
    if config.eps_max is not None:
        require_radius("eps_max", config.eps_max, config.norm, times=2)
    require_step("attack_step_size", config.attack_step_size, config.eps)
    if config.eval_restarts > 1 and config.random_start == "none":
        raise UsageError(
            f"eval_restarts above 1 needs a random start. Received: eval_restarts={config.eval_restarts}, "
            "random_start=none; use --eval_restarts=1."
        )


def _check_epsilon_schedule(config: TrainConfig) -> None:
    with_ends = [name for name, kind in EPSILONS.items() if kind.has_ends]
    _refuse_unused(config, ("eps_max", "eps_min"), "eps_sched", with_ends, {"eps_max": None, "eps_min": 0.0})
    peak = config.eps if config.eps_max is None else config.eps_max
    if config.eps_min > min(config.eps, peak):
        raise UsageError(
            f"eps_min must be at most eps and eps_max. Received: eps_min={config.eps_min:g} with "
            f"eps={config.eps:g}, eps_max={peak:g}."
        )
    config.epsilon_schedule()


def _check_rate_schedule(config: TrainConfig) -> None:
    for name in UNUSED:
        users = [kind for kind, entry in RATES.items() if name in entry.defaults]
        _refuse_unused(config, (name,), "lr_sched", users, UNUSED)
    config.rate_schedule()


def _check_optimizer(config: TrainConfig) -> None:
    if config.optimizer == "adam" and (config.nesterov or config.momentum):
        name, value = ("nesterov", True) if config.nesterov else ("momentum", config.momentum)
        raise UsageError(f"{name} needs optimizer=sgd. Received: {name}={value} with optimizer=adam.")
    if config.nesterov and not config.momentum:
        raise UsageError("nesterov needs momentum above 0. Received: nesterov=True with momentum=0.")
    if config.decoupled_weight_decay and not config.weight_decay:
        raise UsageError(
            "decoupled_weight_decay needs weight_decay above 0. "
            "Received: weight_decay=0; try --weight_decay=1e-3."
        )


def _check_method(config: TrainConfig) -> None:
    entry, adversary = OBJECTIVES[config.objective], ADVERSARIES[config.adversary]
    if config.adversary == "none" and entry.needs_adversary:
        raise UsageError(
            f"{config.objective} needs an adversary. Received: adversary=none. "
            "Use --objective=standard, or --adversary=pgd."
        )
    if entry.needs_random_start and adversary.starts_at_clean(config):
        raise UsageError(
            f"{config.objective} needs a random start: its divergence has no gradient at the clean image. "
            f"Received: adversary={config.adversary}, random_start={config.random_start}; "
            "use --adversary=pgd with --random_start=uniform."
        )
    if config.noised_clean and config.adversary != "fgsm_n":
        raise UsageError(f"noised_clean needs adversary=fgsm_n. Received: adversary={config.adversary}.")
    with_strength = [name for name, each in OBJECTIVES.items() if each.strength]
    _refuse_unused(config, ("strength", "strength_ramp"), "objective", with_strength)
    for name in dict.fromkeys(name for each in OBJECTIVES.values() for name in each.settings):
        users = [objective for objective, each in OBJECTIVES.items() if name in each.settings]
        _refuse_unused(config, (name,), "objective", users)
    entry.check(config)
    if config.objective == "advlc" and config.advlc_distance in WHOLE_BATCH and config.strategy != "none":
        raise UsageError(
            f"advlc_distance={config.advlc_distance} compares all examples of a batch, so it works on one "
            f"device. Received: strategy={config.strategy}; use --strategy=none, or --advlc_distance=l1."
        )
    if config.awp and config.strategy != "none":
        raise UsageError(
            "awp works on one device, as it moves the weights within a step. "
            f"Received: awp={config.awp:g} with strategy={config.strategy}; use --strategy=none."
        )
    if config.attack_mode == "training" and config.strategy != "none":
        raise UsageError(
            "attack_mode=training works on one device, as TensorFlow cannot add up BatchNorm's moments in "
            f"the loop of an attack. Received: strategy={config.strategy}; use --strategy=none, or "
            "--attack_mode=inference."
        )


def _check_averaging(config: TrainConfig) -> None:
    _refuse_unused(config, ("swa_start", "swa_every"), "averaging", ["swa"])
    _refuse_unused(config, ("ema_decay",), "averaging", ["ema"])
    start = config.swa_start
    whole_epoch = start < 1 or start == int(start)
    if config.averaging == "swa" and not (whole_epoch and config.swa_start_epoch < config.epochs):
        raise UsageError(
            f"swa_start must be a fraction of the training or a whole epoch below epochs={config.epochs}. "
            f"Received: swa_start={start:g}."
        )


def _refuse_unused(
    config: TrainConfig,
    names: Iterable[str],
    chooser: str,
    users: Sequence[str],
    unused: Mapping[str, Any] | None = None,
) -> None:
    """Refuses settings that the choice made by another setting would ignore.

    Args:
        config: the settings.
        names: settings that only `users` use.
        chooser: the setting that chooses.
        users: its values that use them.
        unused: the values that stand for "not given"; None: the declared defaults.

    Raises:
        UsageError: one of the settings is given and not used.
    """
    if getattr(config, chooser) in users:
        return
    declared = {field.name: field.default for field in dataclasses.fields(config)}
    for name in names:
        value = getattr(config, name)
        if value != (unused or declared)[name]:
            raise UsageError(
                f"{name} needs {chooser}={alternatives(users)}. "
                f"Received: {name}={show(value)} with {chooser}={getattr(config, chooser)}."
            )


def presets_help() -> Iterable[str]:
    """Returns the table of presets that ``--help`` ends with."""
    fields = dataclasses.fields(TrainConfig)
    return preset_table([field.name for field in fields if field.default is OPEN])


def describe(config: TrainConfig, given: Iterable[str]) -> dict[str, str]:
    """Returns the plan of a run by section; the last entry names what was given explicitly."""
    chosen = ", ".join(name for name in given if name not in ("dataset", "model")) or "none"
    deterministic = ", deterministic" if config.deterministic else ""
    arithmetic = f"{config.precision}, jit {config.jit}, strategy {config.strategy}, seed {config.seed}"
    return {
        "data": _describe_data(config),
        "model": _describe_model(config),
        "attack": _describe_adversary(config),
        "method": _describe_method(config),
        "epsilon": _describe_epsilon(config),
        "optimizer": _describe_optimizer(config),
        "compute": f"{arithmetic}{deterministic}",
        "measured": _describe_measurement(config),
        "given": f"{chosen} (the rest: values for {config.dataset} with {config.model})",
    }


def _describe_data(config: TrainConfig) -> str:
    size = f" at {config.image_size}x{config.image_size}" if config.image_size else ""
    size += " in the published order" if config.order == "published" else ""
    subset = f", {quantity(config.train_examples, 'training image')}" if config.train_examples else ""
    augment = ", crop and flip" if config.augment else ""
    held_out = f"{config.val_fraction:.3g} held out"
    best = "best epoch by the test images" if config.select_on == "test" else held_out
    return f"{config.dataset}{size}{subset}, batch {config.batch_size}, {best}{augment}"


def _describe_model(config: TrainConfig) -> str:
    return f"{describe_network(config.model, config.network)}, {config.activation}"


def _describe_adversary(config: TrainConfig) -> str:
    """Describes the attack on the training images."""
    if config.adversary == "none":
        return "none"
    if not config.eps:
        return "none, as ε is 0"
    if not OBJECTIVES[config.objective].attacks:
        return f"none, the objective {config.objective} sees clean images only"
    plan = ADVERSARIES[config.adversary].plan
    text = plan(config) if plan else f"{config.adversary}, {config.norm}, ε {format_epsilon(config.eps)}"
    return f"{text}, BatchNorm in training mode" if config.attack_mode == "training" else text


def _describe_measurement(config: TrainConfig) -> str:
    """Describes the attack of validation and of the final errors."""
    pgd = (config.norm, config.eps, config.attack_steps, config.attack_step_size, config.random_start)
    restarts = f", the worst of {config.eval_restarts} starts" if config.eval_restarts > 1 else ""
    images = f", on {quantity(config.eval_examples, 'test image')}" if config.eval_examples else ""
    return f"{describe_pgd(*pgd)}{restarts}{images}"


def _describe_method(config: TrainConfig) -> str:
    strength = "" if config.strength is None else f" {config.strength:g}{' ramped' * config.strength_ramp}"
    awp = f", awp {config.awp:g}" if config.awp else ""
    average = "" if config.averaging == "none" else f"; weights averaged ({config.averaging})"
    attacked = config.adversary != "none" and OBJECTIVES[config.objective].attacks
    adversary = f" against {config.adversary}" if attacked else ""
    return f"{config.objective}{strength}{adversary}{awp}{average}"


def _describe_epsilon(config: TrainConfig) -> str:
    target = format_epsilon(config.eps)
    curve = f"{config.eps_sched} {target}"
    if EPSILONS[config.eps_sched].has_ends:
        peak = config.eps if config.eps_max is None else config.eps_max
        start, end = format_epsilon(config.eps_min), format_epsilon(peak)
        curve = f"{config.eps_sched} from {start} to {end}, at most {target}"
    periods = f", restarts at {show(config.periods)}" if config.periods else ""
    return f"{curve}, {quantity(config.epochs, 'epoch')}{periods}, set every {config.schedule_unit}"


def _describe_optimizer(config: TrainConfig) -> str:
    detail = RATES[config.lr_sched].plan.format(
        factor=f"{config.lr_factor:g}",
        milestones=show(config.lr_milestones),
        warmup=f"{config.lr_warmup:g} {'epochs' if config.lr_warmup >= 1 else 'of a period'}",
    )
    momentum = (
        f", momentum {config.momentum:g}{' (Nesterov)' if config.nesterov else ''}" if config.momentum else ""
    )
    rate = f"lr {config.lr:g} {config.lr_sched}{f', {detail}' if detail else ''}"
    decay = f"{'decoupled ' if config.decoupled_weight_decay else ''}weight decay {config.weight_decay:g}"
    return f"{config.optimizer}{momentum}, {rate}, {decay}"
