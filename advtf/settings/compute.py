"""The settings of how to compute, which training, evaluation and analysis declare alike.

The seed, XLA and determinism are declared here once, and checked here against each other. What a training
computes in is its own setting, because everything else is measured in float32.
"""

from typing import Any

from advtf.errors import UsageError
from advtf.settings.fields import choice, setting, switch, whole

SECTION = "compute"


def seed(source_of: str) -> Any:
    """Returns the setting of the seed; `source_of` says for ``--help`` what is drawn from it."""
    return setting(SECTION, whole(0, 2**31 - 1), f"seed of {source_of}", 0)


def jit() -> Any:
    """Returns the setting of XLA, see `advtf.runtime.compiles`."""
    return setting(SECTION, choice(("auto", "on", "off")), "compile with XLA; auto: on a single GPU", "auto")


def deterministic() -> Any:
    """Returns the setting of TensorFlow's deterministic operations, see `advtf.runtime.start`."""
    description = "the same bits each time, on a GPU as well; there it is slower and without XLA"
    return setting(SECTION, switch(), description, False, earlier=False)


def check(settings: Any) -> None:
    """Checks the settings of this module against each other.

    Raises:
        UsageError: XLA and determinism together.
    """
    if settings.deterministic and settings.jit == "on":
        raise UsageError(
            "deterministic excludes XLA, not all of which TensorFlow makes deterministic. "
            "Received: deterministic=true, jit=on; use --jit=auto."
        )
