"""The memory of the machine, and what does not fit into it; known before TensorFlow starts."""

import os
from pathlib import Path

from advtf.errors import UsageError

_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container; "max" where there is none


def machine_memory() -> int:
    """Returns the bytes of memory that this process may use: those of the machine, or of its container."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(memory, int(_GROUP_LIMIT.read_text()))
    except (OSError, ValueError):
        return memory


def has_gpu() -> bool:
    """Tells whether the machine shows a GPU of NVIDIA, whose memory is not known before TensorFlow starts."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def require_memory(what: str, needed: int, received: str, remedy: str) -> None:
    """Checks that something fits into memory, which the system would answer by a silent kill.

    Args:
        what: what it is, for the message.
        needed: a lower estimate of its size, in bytes.
        received: the settings that its size follows from, as ``name=value``.
        remedy: what to do, a sentence.

    Raises:
        UsageError: it does not fit.
    """
    memory = machine_memory()
    if needed > memory:
        raise UsageError(
            f"{what} must fit into memory, {gigabytes(memory)} here. "
            f"Received: {received}, at least {gigabytes(needed)}. {remedy}"
        )


def gigabytes(size: float) -> str:
    """Returns a number of bytes as ``12.3 GB`` or ``5,237,127 GB``."""
    return f"{size / 1e9:,.0f} GB" if size >= 1e11 else f"{size / 1e9:.3g} GB"
