"""Settings of weight averaging: which weights of a training enter, and how. No TensorFlow, no NumPy."""

import dataclasses
import math

from advtf.errors import UsageError
from advtf.settings.fields import choice, real, setting, whole

DEFAULT_START = 0.25  # epoch 50 of 200, as for SWA in Li & Spratling 2023
DEFAULT_DECAY = 0.999


@dataclasses.dataclass(frozen=True, kw_only=True)
class AveragingSettings:
    """Averages of the weights along the training, kept beside the trained weights themselves."""

    averaging: str = setting(
        "averaging", choice("none", "swa", "ema"), "swa: mean of weights; ema: exponential", "none"
    )
    swa_start: float = setting(
        "averaging", real(), "swa: first epoch, or a fraction of the training", DEFAULT_START
    )
    swa_every: int | None = setting(
        "averaging", whole(1), "swa: steps between weights; none: an epoch's", None
    )
    ema_decay: float = setting(
        "averaging", real(0, 0.999999), "ema: part of the old average kept in a step", DEFAULT_DECAY
    )


def swa_start_epoch(config) -> int:
    """Returns after how many epochs of a `TrainConfig` its first weights are averaged (halves up)."""
    start = config.swa_start
    return math.floor(start * config.epochs + 0.5) if start < 1 else int(start)


def check_averaging(config) -> None:
    """Checks the settings of averaging of a `TrainConfig`.

    Raises:
        UsageError: a setting that the chosen averaging ignores, or a start that is not inside the training.
    """
    users = {
        "swa_start": (DEFAULT_START, "swa"),
        "swa_every": (None, "swa"),
        "ema_decay": (DEFAULT_DECAY, "ema"),
    }
    for name, (unused, kind) in users.items():
        value = getattr(config, name)
        if value != unused and config.averaging != kind:
            raise UsageError(
                f"{name} needs averaging={kind}. "
                f"Received: {name}={value:g} with averaging={config.averaging}."
            )
    if config.averaging != "swa":
        return
    start = config.swa_start
    if (start >= 1 and start != int(start)) or swa_start_epoch(config) >= config.epochs:
        raise UsageError(
            f"swa_start must be a fraction of the training or a whole epoch below epochs={config.epochs}. "
            f"Received: swa_start={start:g}."
        )
