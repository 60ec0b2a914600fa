"""The processes of a training on several machines: who they are, that they agree, and how they end.

TensorFlow's `MultiWorkerMirroredStrategy` runs the same program in every process. `Cluster` reads from the
variable TF_CONFIG which of them this one is, before TensorFlow is imported. The chief, worker 0, writes all
files; the others train with it. They talk through TensorFlow's coordination service, which also notices
within seconds when one of them is gone.
"""

import contextlib
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from advtf.errors import UsageError, quantity, show_text
from advtf.runtime import is_multi_worker

VARIABLE = "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
PARTING_SECONDS = 30  # that the workers wait for each other at the end
LOST = 75  # the exit code where a worker was lost: to be tried again, as sysexits.h names it
_TASK = r"/job:\w+/replica:\d+/task:\d+"
_COORDINATION = re.compile(r"coordination ?service", re.IGNORECASE)
# A connection has broken, or the coordination service has heard nothing for some time.
_LOST = re.compile(rf"remote target {_TASK}|unhealthy[^/]*(?:{_TASK}\s*)+|Task {_TASK} heartbeat timeout")


class WorkerLost(RuntimeError):
    """A worker of the training has stopped; the message says which, as far as TensorFlow knows."""


@dataclass(frozen=True)
class Cluster:
    """The workers of a training, and which of them this process is.

    Attributes:
        addresses: ``host:port`` of each worker, the chief's first.
        index: the number of this worker among them.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def chief(self) -> bool:
        """Whether this worker writes the files."""
        return self.index == 0

    @classmethod
    def of(cls, config: Any, out_dir: str | None) -> Self | None:
        """Returns the workers of a training; None for one of a single process.

        Args:
            config: the settings of the training.
            out_dir: the folder that was chosen for it.

        Raises:
            UsageError: TF_CONFIG or the port in it cannot be used, no folder was chosen, or a batch cannot be
                shared out equally.
        """
        if config.strategy != "multi_worker":
            return None
        cluster = cls.of_process()
        if not out_dir:
            raise UsageError(
                "strategy=multi_worker needs a folder that all workers share. Received: no out_dir. Give "
                "every worker the same --out_dir."
            )
        cluster.require_shares(config.batch_size)
        cluster.require_port()
        return cluster

    @classmethod
    def of_process(cls) -> Self:
        """Returns what TF_CONFIG says.

        Raises:
            UsageError: the variable is missing, or does not describe workers and one of them.
        """
        text = os.environ.get(VARIABLE, "")
        if not text.strip():
            raise UsageError(
                f"strategy=multi_worker needs the variable {VARIABLE} in every process. Received: none. Set "
                f"{VARIABLE}='{EXAMPLE}' with the index of the process, or start them with "
                "python -m launch.cluster --workers=2 -- FLAGS."
            )
        try:
            record = json.loads(text)
        except ValueError as error:
            raise _refused(f"no JSON ({error})", text) from error
        addresses = _addresses(_entry(record, "cluster", text), text)
        return cls(addresses, _index(addresses, _entry(record, "task", text), text))

    def require_port(self) -> None:
        """Checks that no other program listens on the port of this worker.

        TensorFlow would share the port with it, and the messages of two trainings would mix.

        Raises:
            UsageError: the port is in use.
        """
        address = self.addresses[self.index]
        port = int(address.rpartition(":")[2])
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was closed lately is free
            try:
                probe.bind(("", port))
            except OSError as error:
                raise UsageError(
                    f"the port of worker {self.index} must be free. Received: {address} ({error.strerror}). "
                    f"End the program that uses it, or give the worker another port in {VARIABLE}."
                ) from error

    def require_shares(self, batch_size: int) -> None:
        """Checks that a batch can be shared out equally.

        Raises:
            UsageError: it cannot.
        """
        workers = len(self.addresses)
        if batch_size % workers:
            raise UsageError(
                f"batch_size must be a multiple of the number of workers, {workers}. "
                f"Received: batch_size={batch_size}. Try {batch_size // workers * workers or workers}."
            )

    def agree(self, what: str, values: Mapping[str, Any]) -> None:
        """Checks that every worker has the values of the chief; all workers must call it.

        Args:
            what: what the values are, such as "settings"; each is compared once.
            values: JSON values by name.

        Raises:
            UsageError: some worker has another value; in every worker, with the same message.
        """
        _store().set_config_key_value(_key(what, self.index), json.dumps(dict(values)))
        chief = json.loads(self._read(_key(what, 0)))
        for index in range(1, len(self.addresses)):
            worker = json.loads(self._read(_key(what, index)))
            for name in sorted(chief.keys() | worker.keys()):
                if chief.get(name) != worker.get(name):
                    raise UsageError(
                        f"all workers must have the same {what}. Received: {name}="
                        f"{show_text(worker.get(name))} in worker {index} and "
                        f"{show_text(chief.get(name))} in worker 0. Start every worker with the same flags."
                    )

    def wait_for_chief(self, what: str) -> None:
        """Returns when the chief has called it with the same text; the chief does not wait."""
        if self.chief:
            _store().set_config_key_value(f"advtf/chief/{what}", "done")
        else:
            self._read(f"advtf/chief/{what}")

    def part(self) -> None:
        """Ends together: a worker that were gone first would make the others fail."""
        from tensorflow.errors import OpError

        with contextlib.suppress(OpError):  # everything has been done; a late worker changes nothing
            _store().wait_at_barrier("advtf/end", PARTING_SECONDS * 1000)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Within the context, errors of TensorFlow that mean the loss of a worker are `WorkerLost`."""
        from tensorflow import errors

        gone = (
            errors.UnavailableError,
            errors.AbortedError,
            errors.CancelledError,
        )
        try:
            yield
        except errors.OpError as error:
            if not isinstance(error, gone) and not _COORDINATION.search(str(error)):
                raise
            raise WorkerLost(
                f"all {quantity(len(self.addresses), 'worker')} must run until the training ends. "
                f"Received: {self._lost(str(error))}."
            ) from error

    def _lost(self, message):
        """Returns which workers an error of TensorFlow is about."""
        found = _LOST.search(message)
        numbers = dict.fromkeys(re.findall(r"task:(\d+)", found[0])) if found else []
        if not numbers and "CoordinationService/Heartbeat" in message:
            numbers = ["0"]  # who leads the service does not answer
        lost = [f"worker {number} ({self.addresses[int(number)]})" for number in numbers]
        if not lost:
            return f"a connection that has ended ({_reason(message)})"
        return f"{', '.join(lost)}, which has stopped or cannot be reached"

    def _read(self, key):
        from tensorflow.errors import DeadlineExceededError

        while True:  # in short turns, between which Python sees signals
            with contextlib.suppress(DeadlineExceededError):
                return _store().get_config_key_value(key, timeout_in_ms=500)


@contextlib.contextmanager
def speaking(cluster: Cluster | None) -> Iterator[None]:
    """Within the context only the chief prints; what a worker ends by, it says on stderr."""
    if cluster is None or cluster.chief:
        yield
        return
    sys.stdout.flush()
    descriptor = os.dup(1)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            os.dup2(nowhere.fileno(), 1)  # what a signal is answered with does not go through sys.stdout
            yield
    finally:
        os.dup2(descriptor, 1)
        os.close(descriptor)


@contextlib.contextmanager
def together(cluster: Cluster | None) -> Iterator[None]:
    """Within the context a lost worker ends the others, with one line and the code `LOST`; all end
    together."""
    if cluster is None:
        yield
        return
    try:
        with cluster.watched():
            yield
    except WorkerLost as error:
        print(f"error: {error} Start them again with --resume; their number may differ.", file=sys.stderr)
        sys.stderr.flush()
        os._exit(LOST)  # TensorFlow would wait for the lost worker
    except (SystemExit, UsageError):  # what all workers end by
        cluster.part()
        raise
    cluster.part()


def any_worker(strategy) -> Callable[..., tuple[bool, ...]]:
    """Returns ``any_worker(*wishes)``: for each wish, whether some worker of the strategy has it.

    All workers must call it as often. Without other workers it returns the wishes.
    """
    import tensorflow as tf

    if not is_multi_worker(strategy):
        return lambda *wishes: wishes

    @tf.function(autograph=False)
    def total(wishes):
        def on_replica():
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(wishes))

        return strategy.experimental_local_results(strategy.run(on_replica))[0]

    def any_of(*wishes):
        return tuple(bool(count) for count in total(tf.constant(wishes, tf.float32)).numpy())

    return any_of


def _store():
    """Returns TensorFlow's context, which has the texts that the workers leave for each other."""
    from tensorflow.python.eager import context  # the coordination service has no public name

    return context.context()


def _key(what, index):
    return f"advtf/{what}/{index}"


def _entry(record, name, text):
    entry = record.get(name) if isinstance(record, dict) else None
    if not isinstance(entry, dict):
        raise _refused(f"no object {name!r}", text)
    return entry


def _addresses(jobs, text):
    addresses = jobs.get("worker")
    if set(jobs) != {"worker"} or not isinstance(addresses, list):
        jobs = ", ".join(map(str, jobs)) or "nothing"
        raise _refused(f"a cluster of {jobs} instead of a list of workers", text)
    for address in addresses:
        host, _, port = str(address).rpartition(":")
        if not isinstance(address, str) or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise _refused(f"the address {show_text(address)} instead of host:port", text)
    if not addresses or len(set(addresses)) < len(addresses):
        raise _refused("an address twice" if addresses else "no address", text)
    return tuple(addresses)


def _index(addresses, task, text):
    job, index = task.get("type"), task.get("index")
    if job != "worker":
        raise _refused(f"a task of type {show_text(job)} instead of worker", text)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(addresses):
        count = quantity(len(addresses), "worker")
        raise _refused(f"the index {show_text(repr(index))} of {count}, counted from 0", text)
    return index


def _reason(message):
    """Returns the line of TensorFlow's message that says what has happened; traces stand before it."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return next(
        (line for line in lines if "abort" in line.lower()), lines[0] if lines else "no reason given"
    )[:300]


def _refused(what, text):
    return UsageError(
        f"{VARIABLE} must describe the workers and this process, as {EXAMPLE} does. "
        f"Received: {what} in {show_text(text, 300)}."
    )
