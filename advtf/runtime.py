"""How a process runs: TensorFlow, started quietly on the devices of the machine, and progress bars."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from absl import logging

from advtf.errors import UsageError

if TYPE_CHECKING:
    from tqdm import tqdm

BFLOAT16_REWRITE = "auto_mixed_precision_onednn_bfloat16"  # an experimental option of TensorFlow's optimizer


@dataclass(frozen=True)
class Runtime:
    """The devices that a command runs on, and how.

    Attributes:
        device: one line for people, e.g. "1 GPU (NVIDIA H100), XLA".
        strategy: tf.distribute strategy whose scope the model is built in.
        model_policy: Keras dtype policy of the classifier during training.
        rewrite_bfloat16: whether training graphs are rewritten to bfloat16 by oneDNN (CPU).
        jit_compile: value for ``compile(jit_compile=...)``.
    """

    device: str
    strategy: object
    model_policy: str
    rewrite_bfloat16: bool
    jit_compile: bool | str


def progress(iterable: Iterable | None = None, *, shown: bool = True, **settings: Any) -> "tqdm":
    """Returns a progress bar with an estimate of the remaining time.

    It is silent where stdout is not a terminal, and it leaves no line behind when it is finished.

    Args:
        iterable: what the bar counts while it is iterated over; None to call ``update`` by hand.
        shown: whether there is a bar at all.
        **settings: the arguments of tqdm, such as total, desc and unit.
    """
    from tqdm import tqdm

    return tqdm(iterable, leave=False, disable=not (shown and sys.stdout.isatty()), **settings)


@contextlib.contextmanager
def _stderr_to(file):
    # TensorFlow's first messages bypass Python and every log-level variable: only the descriptor helps.
    sys.stderr.flush()
    saved = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def import_tensorflow(verbose: bool = False):
    """Imports TensorFlow with the Keras backend set to it, without its start-up messages.

    Args:
        verbose: whether the messages are shown. They always are when the import fails.

    Returns:
        The tensorflow module.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if not verbose:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryFile() as captured:
        try:
            with contextlib.nullcontext() if verbose else _stderr_to(captured):
                import tensorflow as tf

                tf.config.list_physical_devices()
        except BaseException:
            captured.seek(0)
            sys.stderr.write(captured.read().decode(errors="replace"))
            raise
    if not verbose:
        tf.get_logger().setLevel("ERROR")
        logging.set_verbosity(logging.WARNING)  # absl's: SavedModel export reports every step on it
    return tf


def start(
    precision: str = "float32", jit: str = "auto", strategy: str = "none", verbose: bool = False
) -> Runtime:
    """Imports TensorFlow and sets up devices for training.

    Args:
        precision: "float32" or "bfloat16" (training only; evaluation is always float32).
        jit: "auto" (XLA on one GPU), "on" or "off".
        strategy: "none" or "mirrored" (all GPUs of this machine).
        verbose: whether TensorFlow's own messages are shown.

    Returns:
        The devices and the choices that follow from them.

    Raises:
        UsageError: "mirrored" with fewer than two devices to mirror over.
    """
    tf = import_tensorflow(verbose)
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        with contextlib.suppress(RuntimeError):  # already initialised: too late, and harmless
            tf.config.experimental.set_memory_growth(gpu, True)
    chosen = _strategy(tf, strategy, gpus)
    jit_compile = {"auto": "auto", "on": True, "off": False}[jit]
    compiled = compiles(jit) if strategy == "none" else jit == "on"
    return Runtime(
        device=_describe(tf, gpus, strategy, compiled),
        strategy=chosen,
        model_policy="mixed_bfloat16" if precision == "bfloat16" and gpus else "float32",
        rewrite_bfloat16=precision == "bfloat16" and not gpus,
        jit_compile=jit_compile,
    )


def compiles(jit: str) -> bool:
    """Returns whether `jit`, "auto", "on" or "off", means XLA on this machine; "auto" does with a GPU."""
    import tensorflow as tf

    return jit == "on" or (jit == "auto" and bool(tf.config.list_physical_devices("GPU")))


def _strategy(tf, name, gpus):
    if name == "none":
        return tf.distribute.get_strategy()
    devices = [gpu.name for gpu in tf.config.list_logical_devices("GPU")] if gpus else [
        cpu.name for cpu in tf.config.list_logical_devices("CPU")
    ]  # fmt: skip
    if len(devices) < 2:
        raise UsageError(
            f"--strategy=mirrored requires at least 2 devices. Received: {len(devices)} visible. "
            "Use --strategy=none, or check CUDA_VISIBLE_DEVICES."
        )
    return tf.distribute.MirroredStrategy(devices)


def _describe(tf, gpus, strategy, compiled):
    graph = "XLA" if compiled else "graph"
    if not gpus:
        return f"CPU ({os.cpu_count()} cores), {graph}"
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    used = len(gpus) if strategy == "mirrored" else 1
    return f"{used} of {len(gpus)} GPU ({name}), {graph}"


@contextlib.contextmanager
def bfloat16_rewrite(enabled: bool):
    """Within the context, graphs run with oneDNN's automatic bfloat16 rewriting on or off.

    The option is part of a graph's key in TensorFlow's cache, so a function called inside and outside runs
    as two different graphs.
    """
    import tensorflow as tf

    before = rewrites_to_bfloat16()
    tf.config.optimizer.set_experimental_options({BFLOAT16_REWRITE: enabled})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({BFLOAT16_REWRITE: before})


def rewrites_to_bfloat16() -> bool:
    """Returns whether graphs run with oneDNN's automatic bfloat16 rewriting at the moment."""
    import tensorflow as tf

    return tf.config.optimizer.get_experimental_options().get(BFLOAT16_REWRITE, False)
