"""Commands in processes of their own: on this machine, or as tasks of a Ray cluster.

Neither TensorFlow nor Ray is imported with this module.
"""

import contextlib
import ctypes
import fcntl
import importlib.util
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from advtf.errors import UsageError, first_line

CONNECT_SECONDS = 5.0
LOCAL = "local"  # the address that starts a cluster on this machine
_TAIL_BYTES = 16_384
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux' prctl


def thread_settings(threads: int) -> dict[str, str]:
    """Returns the environment in which a command computes with this number of threads."""
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


def visible_gpus() -> list[str]:
    """Returns the GPUs of NVIDIA that the runs may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number, _ in enumerate(sorted(Path("/dev").glob("nvidia[0-9]*")))]


def spawn(command: Sequence[str], log: Path, folder: str, environment: Mapping[str, str]) -> subprocess.Popen:
    """Starts a command whose output goes to a log, which is locked until the process ends.

    The process is the leader of a group of its own, so that Ctrl-C in a terminal reaches the driver alone. It
    gets SIGTERM when the process that has started it dies, and so saves a checkpoint and ends.

    Args:
        command: the command.
        log: the file that its output is appended to.
        folder: its working directory.
        environment: variables beside those of this process.

    Raises:
        UsageError: another process holds the log.
        OSError: the log cannot be written.
    """
    log = Path(folder, log)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"the run must not be in use. Received: {log}, which a process holds."
            ) from error
        handle.write(f"$ {shlex.join(command)}\n".encode())
        handle.flush()
        return subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with(os.getpid()),
        )


def end_with(parent: int) -> Callable[[], None] | None:
    """Returns a `preexec_fn` by which a process ends with its parent (SIGTERM); None off Linux."""
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):  # not Linux
        return None

    def prepare() -> None:
        prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it has died in the meantime
            os._exit(128 + signal.SIGTERM)

    return prepare


@contextlib.contextmanager
def signals_received() -> Iterator[list[int]]:
    """Within the context, Ctrl-C and SIGTERM are put into the list that it gives, and do nothing else."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda got, _: received.append(got)) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def is_locked(path: Path) -> bool:
    """Tells whether another process holds the lock of a file; a file that is not there has none."""
    try:
        with open(path, "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def last_lines(log: Path, count: int) -> list[str]:
    """Returns the last lines of a log; none where it cannot be read."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.path.getsize(log) - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return []
    # A progress bar rewrites its line: what counts is what it looked like at last.
    lines = [line.rstrip().rpartition("\r")[2] for line in text.split("\n")]
    return [line for line in lines if line.strip()][-count:]


def connect_ray(address: str, cores: int | None = None) -> Any:
    """Connects this process with a Ray cluster, and returns the module `ray`; its ``shutdown()`` leaves it.

    Args:
        address: ``host:port`` of a cluster that runs, ``auto`` for the one of this machine, or ``local`` to
            start one here for as long as this process works.
        cores: that a cluster which is started here offers; None for those of the machine.

    Raises:
        UsageError: Ray is not installed, or no cluster answers at the address.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError(
            f"--cluster needs Ray. Received: cluster={address}, and Ray is not installed. "
            'Install it by pip install "advtf[cluster]".'
        )
    _require_reachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address == LOCAL:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else it writes a token into the home folder
        os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    own = {"include_dashboard": False, "num_cpus": cores} if address == LOCAL else {}
    try:
        ray.init(address=address, logging_level="error", log_to_driver=False, **own)
    except Exception as error:  # of Ray, gRPC or the operating system
        raise UsageError(
            f"a Ray cluster must answer at the address. Received: cluster={address} ({first_line(error)}). "
            f"Start it by ray start --head, or use --cluster=local."
        ) from error
    return ray


def ray_task(ray: Any, cpus: int, gpus: int = 0) -> Callable[..., Any]:
    """Returns ``submit(command, log, folder, environment)``, which hands a command to a connected cluster.

    Its arguments are those of `spawn`. It returns a reference, which ``ray.get`` makes the exit code of.

    Args:
        ray: what `connect_ray` has returned.
        cpus, gpus: that a task asks for.
    """
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, runtime_env=ray_environment())
    return task(_on_a_worker).remote


def ray_environment() -> dict[str, Any]:
    """Returns the ``runtime_env`` in which a Ray worker finds this package, and what is beside it, at its
    path on this machine."""
    root = str(Path(__file__).parents[1])
    search = os.pathsep.join(dict.fromkeys([root, *filter(None, [os.environ.get("PYTHONPATH")])]))
    return {"env_vars": {"PYTHONPATH": search}}


def describe_ray(ray: Any) -> str:
    """Returns how large a connected cluster is, in a few words."""
    found = ray.cluster_resources()
    machines = len([node for node in ray.nodes() if node["Alive"]])
    return f"Ray, machines: {machines}, cores: {found.get('CPU', 0):g}, GPUs: {found.get('GPU', 0):g}"


def _on_a_worker(command, log, folder, environment):
    return spawn(command, log, folder, environment).wait()


def _require_reachable(address: str) -> None:
    if address in (LOCAL, "auto"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise UsageError(
            f"cluster must be host:port of a Ray cluster, auto, or local. Received: cluster={address}."
        )
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        if os.environ.get("RAY_USE_TLS", "0") == "0":
            _require_grpc(f"{host}:{port}")  # Ray itself would wait for minutes
    except OSError as error:
        raise UsageError(
            f"a Ray cluster must answer at the address. Received: cluster={address} "
            f"({error.strerror or first_line(error)}). Start it by ray start --head, or use --cluster=local."
        ) from error


def _require_grpc(target):
    import grpc  # TensorFlow and Ray need it

    with grpc.insecure_channel(target) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
        except grpc.FutureTimeoutError:
            raise OSError("what listens there is not Ray") from None
