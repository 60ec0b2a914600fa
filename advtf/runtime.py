"""How a process runs: TensorFlow on the devices of the machine, its arithmetic, and progress bars.

Everything that measures runs within `true_float32`, and a training within `Runtime.training`. Both switch
what belongs to the whole process, and switch it back.
"""

import contextlib
import gc
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from absl import logging

from advtf.errors import UsageError, first_line, quantity

if TYPE_CHECKING:
    from tqdm import tqdm

TF32_CAPABILITY = (8, 0)  # Ampere, the first generation of GPUs with TF32
FEW_CORES = 2  # where a thread that searches for work takes the time of one that has some
CONNECT_SECONDS = 600  # until all workers must have started; a queue may start them one by one
# Of silence, after which a worker counts as lost. One that is killed is noticed at once, by its connection;
# with a third of the time, workers that a loaded machine had let wait for seconds were taken for lost.
HEARTBEAT_SECONDS = 30


@dataclass(frozen=True)
class Runtime:
    """The devices that a command runs on, and how.

    Attributes:
        device: one line for people, e.g. "1 GPU (NVIDIA H100), XLA".
        strategy: tf.distribute strategy whose scope the model is built in.
        model_policy: Keras dtype policy of the classifier during training.
        jit_compile: value for ``compile(jit_compile=...)``.
        tf32: whether training may round the factors of float32 products to TF32 (GPU).
        chief: whether this process writes the files of a training; False in all workers but the first.
    """

    device: str
    strategy: object
    model_policy: str
    jit_compile: bool | str
    tf32: bool = False
    chief: bool = True

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Within the context graphs run in the arithmetic of the training; `true_float32` inside suspends it.

        It is to be entered before the first step, because XLA compiles the arithmetic of that moment.
        """
        with _TENSOR_FLOAT_32.wanted(self.tf32):
            yield


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
def stderr_to(file: IO[bytes]) -> Iterator[None]:
    """Within the context, what is written to stderr goes to a file, also what does not come from Python."""
    # TensorFlow's first messages bypass Python and every log-level variable: only the descriptor helps.
    sys.stderr.flush()
    saved = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Leaves what is made within the context to the end of the process, out of sight of the collector.

    The modules of TensorFlow are half a million objects. Python would look through them several times while
    they are imported, and again with every few graphs that are built.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def _let_idle_threads_sleep():
    """Keeps TensorFlow's idle threads from searching each other's queues for work, on a machine of few cores.

    On two cores the search takes a third of the time of a training step of a small network, and the bits are
    the same without it. With more cores than threads at work it lets the next operation start sooner.
    """
    # TensorFlow has no public function for it: the one that took this message is for version 1.
    from tensorflow.core.protobuf.config_pb2 import ConfigProto
    from tensorflow.python.eager import context

    if cores() <= FEW_CORES:
        config = ConfigProto()
        config.experimental.disable_thread_spinning = True
        context.context()._config = config  # it is read where the threads are made, at the first operation


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
    with _uncollected(), tempfile.TemporaryFile() as captured:
        try:
            with contextlib.nullcontext() if verbose else stderr_to(captured):
                import keras  # noqa: F401  (it comes with TensorFlow only when something of it is asked for)
                import tensorflow as tf

                _let_idle_threads_sleep()
                tf.config.list_physical_devices()
        except Exception:  # not where Ctrl-C or SIGTERM stops it
            captured.seek(0)
            sys.stderr.write(captured.read().decode(errors="replace"))
            raise
    if not verbose:
        tf.get_logger().setLevel("ERROR")
        logging.set_verbosity(logging.WARNING)  # absl's: SavedModel export reports every step on it
    return tf


def start(
    precision: str = "float32",
    jit: str = "auto",
    strategy: str = "none",
    verbose: bool = False,
    *,
    deterministic: bool = False,
    parallel_operations: bool = True,
) -> Runtime:
    """Imports TensorFlow and sets up devices for a command.

    From here on the process computes float32 without TF32, except within `Runtime.training`.

    Args:
        precision: of the training, "float32", "tf32" or "bfloat16"; everything else is always float32.
        jit: "auto" (XLA on one GPU), "on" or "off".
        strategy: "none", "mirrored" (all GPUs of this machine) or "multi_worker" (those of all machines in
            the variable TF_CONFIG; it waits until all of them have started).
        verbose: whether TensorFlow's own messages are shown.
        deterministic: whether every operation gives the same bits each time on a GPU, too; for the rest of
            the process, and without XLA. A CPU gives the same bits with and without it.
        parallel_operations: whether an operation on a CPU is computed by all cores. Without it each has one
            core, as suits a command that computes something else on every core.

    Returns:
        The devices and the choices that follow from them.

    Raises:
        UsageError: "mirrored" with fewer than two devices to mirror over, workers that do not start, XLA with
            determinism, or TF32 on a GPU without XLA.
    """
    tf = import_tensorflow(verbose)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    gpus = tf.config.list_physical_devices("GPU")
    if not (parallel_operations or gpus):
        with contextlib.suppress(RuntimeError):  # already initialised: too late, and slower only
            tf.config.threading.set_intra_op_parallelism_threads(1)
    if deterministic and gpus:  # what runs on a CPU here is so anyway, and has other bits with the switch
        tf.config.experimental.enable_op_determinism()
    for gpu in gpus:
        with contextlib.suppress(RuntimeError):  # already initialised: too late, and harmless
            tf.config.experimental.set_memory_growth(gpu, True)
    chosen = _strategy(tf, strategy, gpus)
    jit_compile = {"auto": "auto", "on": True, "off": False}[jit]
    compiled = compiles(jit) if strategy == "none" else jit == "on"
    tf32 = precision == "tf32" and _has_tf32(tf, gpus)
    if tf32 and not compiled:
        raise UsageError(
            "precision=tf32 on a GPU needs XLA: without it TensorFlow keeps the convolutions that it has "
            "tuned in TF32 and reuses them where robustness is measured. "
            f"Received: jit={jit}, strategy={strategy}, deterministic={deterministic}. Use precision=float32."
        )
    notes = [] if tf32 or precision != "tf32" else ["tf32 has no effect here"]
    if precision == "bfloat16" and not gpus and not _multiplies_bfloat16():
        notes.append("without instructions for bfloat16, in which float32 is faster")
    notes += ["deterministic"] if deterministic else []
    return Runtime(
        device=", ".join([_describe(tf, gpus, strategy, compiled), *notes]),
        strategy=chosen,
        model_policy="mixed_bfloat16" if precision == "bfloat16" else "float32",
        jit_compile=jit_compile,
        tf32=tf32,
        chief=strategy != "multi_worker" or chosen.extended.should_checkpoint,
    )


def cores() -> int:
    """Returns the number of processor cores that this process may use: OMP_NUM_THREADS at most."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(available_cores(), int(limit)) if limit.isdecimal() and int(limit) else available_cores()


def available_cores() -> int:
    """Returns the number of processor cores that this process may run on, whatever OMP_NUM_THREADS says."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compiles(jit: str) -> bool:
    """Returns whether `jit`, "auto", "on" or "off", means XLA on this machine; "auto" does with a GPU.

    Where TensorFlow's operations are deterministic, "auto" means no XLA, as it does for Keras.

    Raises:
        UsageError: "on" where TensorFlow's operations are deterministic.
    """
    import tensorflow as tf

    if is_deterministic():
        if jit == "on":
            raise UsageError(
                "jit must be auto or off where TensorFlow's operations are deterministic, which excludes "
                "XLA. Received: jit=on."
            )
        return False
    return jit == "on" or (jit == "auto" and bool(tf.config.list_physical_devices("GPU")))


def is_deterministic() -> bool:
    """Returns whether TensorFlow's operations are deterministic in this process."""
    # Keras takes it from there, too; the public module has only the other half, enable_op_determinism.
    from tensorflow.python.framework.config import is_op_determinism_enabled

    return is_op_determinism_enabled()


def require_deterministic(deterministic: bool) -> None:
    """Refuses a library call that asks for determinism in a process with a GPU that does not have it.

    It cannot be had later: cuDNN's algorithms, once chosen, are kept.

    Raises:
        UsageError: `deterministic` is set, and TensorFlow's operations are not deterministic.
    """
    import tensorflow as tf

    if deterministic and tf.config.list_physical_devices("GPU") and not is_deterministic():
        raise UsageError(
            "deterministic needs tf.config.experimental.enable_op_determinism() at the start of the script, "
            "before TensorFlow computes anything. Received: deterministic=True in a process without it."
        )


def is_multi_worker(strategy: Any) -> bool:
    """Returns whether a tf.distribute strategy has replicas in other processes."""
    replicas = strategy.num_replicas_in_sync
    return replicas > 1 and replicas > len(strategy.extended.worker_devices)


def _has_tf32(tf, gpus):
    details = (tf.config.experimental.get_device_details(gpu) for gpu in gpus)
    return any(each.get("compute_capability", (0, 0)) >= TF32_CAPABILITY for each in details)


def _multiplies_bfloat16() -> bool:
    """Returns whether the processor has instructions for bfloat16, or does not tell."""
    try:
        described = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return True
    flags = re.findall(r"^flags\s*:(.*)$", described, re.MULTILINE)  # an ARM processor has "Features"
    return not flags or bool({"avx512_bf16", "amx_bf16"} & set(flags[0].split()))


def _strategy(tf, name, gpus):
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "multi_worker":
        return _multi_worker_strategy(tf)
    devices = [gpu.name for gpu in tf.config.list_logical_devices("GPU")] if gpus else [
        cpu.name for cpu in tf.config.list_logical_devices("CPU")
    ]  # fmt: skip
    if len(devices) < 2:
        raise UsageError(
            f"--strategy=mirrored requires at least 2 devices. Received: {len(devices)} visible. "
            "Use --strategy=none, or check CUDA_VISIBLE_DEVICES."
        )
    return tf.distribute.MirroredStrategy(devices)


def _multi_worker_strategy(tf):
    from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
    from tensorflow.python.eager import context

    jobs = tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec()
    context.context().configure_coordination_service(  # as the strategy does, but for the times
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=1000 * CONNECT_SECONDS,
        heartbeat_timeout_in_ms=1000 * HEARTBEAT_SECONDS,
        shutdown_barrier_timeout_in_ms=1000 * HEARTBEAT_SECONDS,
        coordinated_jobs=[CoordinatedJob(name="worker", num_tasks=jobs.num_tasks("worker"))],
    )
    with _signals_end_the_process():
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.OpError as error:
            raise UsageError(
                f"all workers in TF_CONFIG must start within {CONNECT_SECONDS // 60} minutes and reach each "
                f"other. Received: {first_line(error)[:300]}"
            ) from error


@contextlib.contextmanager
def _signals_end_the_process() -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM act where TensorFlow waits: Python would see them only afterwards."""
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return
    previous = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def threads() -> dict[str, int]:
    """Returns the numbers of threads within and between operations; a CPU's last bits depend on them."""
    import tensorflow as tf

    settings = tf.config.threading
    chosen = {
        "intra_op": settings.get_intra_op_parallelism_threads() or os.environ.get("TF_NUM_INTRAOP_THREADS"),
        "inter_op": settings.get_inter_op_parallelism_threads() or os.environ.get("TF_NUM_INTEROP_THREADS"),
    }
    return {name: int(number or available_cores()) for name, number in chosen.items()}


def _describe(tf, gpus, strategy, compiled):
    graph = "XLA" if compiled else "graph"
    if strategy == "multi_worker":
        workers = tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec()
        graph = f"{graph}, {quantity(workers.num_tasks('worker'), 'worker')} like it"
    if not gpus:
        return f"CPU ({quantity(cores(), 'core')}), {graph}"
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    used = 1 if strategy == "none" else len(gpus)
    return f"{used} of {len(gpus)} GPU ({name}), {graph}"


class _TensorFloat32:
    """TensorFlow's switch of TF32, which belongs to the process, shared by those who need it on or off.

    Whoever measures comes first. The switch is off while any thread does, and what a training wants counts
    again when the last of them has finished.
    """

    def __init__(self):
        self._lock, self._measuring, self._wanted = threading.Lock(), 0, False

    @contextlib.contextmanager
    def wanted(self, enabled: bool) -> Iterator[None]:
        """Sets the switch where nobody measures, and sets it back at the end."""
        with self._lock:
            before = self._wanted if self._measuring else self._switch()
            self._want(enabled)
        try:
            yield
        finally:
            with self._lock:
                self._want(before)

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Switches TF32 off, and sets it back at the end."""
        with self._lock:
            if not self._measuring:
                self._wanted = self._switch()
                self._switch(False)
            self._measuring += 1
        try:
            yield
        finally:
            with self._lock:
                self._measuring -= 1
                if not self._measuring:
                    self._switch(self._wanted)

    def _want(self, enabled):
        self._wanted = enabled
        if not self._measuring:
            self._switch(enabled)

    def _switch(self, enabled: bool | None = None) -> bool:
        import tensorflow as tf

        if enabled is not None:
            tf.config.experimental.enable_tensor_float_32_execution(enabled)
        return tf.config.experimental.tensor_float_32_execution_enabled()


_TENSOR_FLOAT_32 = _TensorFloat32()


@contextlib.contextmanager
def true_float32() -> Iterator[None]:
    """Within the context, or in a function decorated with it, float32 is float32: for whatever measures.

    GPUs since Ampere round the factors of float32 convolutions and matrix products to 10 bits of mantissa
    (TF32) unless TensorFlow is told not to. The switch is off within and, at the end or by an exception, set
    back. TensorFlow reads it when an operation starts, and XLA when it compiles. It belongs to the whole
    process: a training in another thread computes without TF32 meanwhile.

    Examples:
        >>> with true_float32():
        ...     logits = classifier(images)
    """
    with _TENSOR_FLOAT_32.off():
        yield
