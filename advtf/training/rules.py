"""What the settings of a training run demand of each other; each rule is one line of error."""

from typing import TYPE_CHECKING

from advtf.errors import UsageError
from advtf.models import model_size
from advtf.settings.fields import format_epsilon, relative_step
from advtf.training.averaging_settings import check_averaging
from advtf.training.method_settings import check_method
from advtf.training.schedules import epsilon_schedule, rate_schedule

if TYPE_CHECKING:
    from advtf.training.settings import TrainConfig

# Largest radius (and end of an ε curve) that can be meant, for pixels in [0, 1].
EPSILON_CEILING = {"linf": 1.0, "l2": 50.0}
PEAK_CEILING = {"linf": 2.0, "l2": 100.0}
STEP_CEILING = 2.5  # in units of ε: twice the radius crosses the ball, and some slack


def check(config: "TrainConfig") -> None:
    """Checks the settings against each other.

    Raises:
        UsageError: two settings contradict each other, or a radius is absurd.
    """
    model_size(config.model, config.width, config.depth)
    _check_radii(config)
    _check_epsilon_schedule(config)
    _check_rate_schedule(config)
    _check_optimizer(config)
    check_method(config)
    check_averaging(config)
    if config.select_on == "test" and config.val_fraction:
        raise UsageError(
            "select_on=test leaves validation images without a use. "
            f"Received: val_fraction={config.val_fraction:g}; use --val_fraction=0."
        )
    if config.strategy == "mirrored" and config.jit == "on":
        raise UsageError(
            "jit=on works on one device only. Received: jit=on, strategy=mirrored; use --jit=auto."
        )


def _check_radii(config: "TrainConfig") -> None:
    ceilings = dict(eps=EPSILON_CEILING, eps_min=EPSILON_CEILING, eps_max=PEAK_CEILING)
    for name, by_norm in ceilings.items():
        value, ceiling = getattr(config, name) or 0.0, by_norm[config.norm]
        if value > ceiling:
            raise UsageError(
                f"{name} must be at most {ceiling:g} for {config.norm}, as pixels are in [0, 1]. "
                f"Received: {name}={value:g}; {value:g} probably means {value:g}/255."
            )
    require_step("attack_step_size", config.attack_step_size, config.eps)


def require_step(name: str, step: str, epsilon: float) -> None:
    """Refuses a step that crosses the ball.

    Args:
        name: of the setting.
        step: as `advtf.settings.fields.step_size` reads it.

    Raises:
        UsageError: it is longer than `STEP_CEILING` times ε.
    """
    if relative_step(step, epsilon) > STEP_CEILING:
        raise UsageError(
            f"{name} must be at most {STEP_CEILING:g} times ε. "
            f"Received: {name}={step} at eps={format_epsilon(epsilon)}; try eps/4."
        )


def _check_epsilon_schedule(config: "TrainConfig") -> None:
    constant = config.eps_sched == "constant"
    for name, unused in (("eps_max", None), ("eps_min", 0.0)):
        value = getattr(config, name)
        if constant and value != unused:
            raise UsageError(
                f"{name} needs eps_sched=linear or cosine. "
                f"Received: {name}={value:g} with eps_sched=constant."
            )
    peak = config.eps if config.eps_max is None else config.eps_max
    if config.eps_min > min(config.eps, peak):
        raise UsageError(
            f"eps_min must be at most eps and eps_max. Received: eps_min={config.eps_min:g} with "
            f"eps={config.eps:g}, eps_max={peak:g}."
        )
    epsilon_schedule(
        config.eps_sched,
        target=config.eps,
        minimum=config.eps_min,
        maximum=config.eps_max,
        boundaries=config.periods,
        epochs=config.epochs,
    )


def _check_rate_schedule(config: "TrainConfig") -> None:
    users = dict(
        lr_milestones=("step", "exponential"), lr_factor=("step", "exponential"), lr_warmup=("warmup",)
    )
    unused = dict(lr_milestones=(), lr_factor=1.0, lr_warmup=0.0)
    for name, kinds in users.items():
        value = getattr(config, name)
        if config.lr_sched not in kinds and value != unused[name]:
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise UsageError(
                f"{name} needs lr_sched={' or '.join(kinds)}. Received: {name}={shown} with "
                f"lr_sched={config.lr_sched}."
            )
    rate_schedule(
        config.lr_sched,
        config.lr,
        milestones=config.lr_milestones,
        factor=config.lr_factor,
        warmup=config.lr_warmup,
        boundaries=config.periods,
        epochs=config.epochs,
    )


def _check_optimizer(config: "TrainConfig") -> None:
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
