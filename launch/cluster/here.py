"""The workers of one training as processes of this machine, which talk by 127.0.0.1."""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from advtf.errors import UsageError
from advtf.processes import end_with, signals_received
from advtf.training.directory import TrainingDirectory
from launch.cluster.attempts import (
    GRACE_SECONDS,
    PARTING_SECONDS,
    STRATEGY,
    Order,
    Voices,
    continued,
    outcome,
    tell_another,
)

# The kernel gives the ports from 32768 on to whoever asks for any, also while the workers still start.
PORTS = range(20000, 32768)


def train(order: Order) -> int:
    """Trains by processes of this machine; returns the exit code of the training.

    Raises:
        UsageError: no ports are free.
    """
    run = TrainingDirectory(order.out_dir)
    before, attempt = run.identity(), 0
    with signals_received() as signals:
        while True:
            code, again = _Group(order, continued(order.flags, run, before)).wait(signals)
            if not again or attempt == order.max_failures:
                return code
            attempt += 1
            tell_another(attempt, order.max_failures)


class _Group:
    """The processes of one attempt."""

    def __init__(self, order: Order, given: Sequence[str]):
        addresses = [f"127.0.0.1:{port}" for port in _free_ports(order.workers)]
        self._voices, self._passed_on = Voices(), 0
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "advtf.main", STRATEGY, *given],
                env=os.environ | order.environment | _task(addresses, index),
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",  # a line that cannot be read must not stop the reader
                start_new_session=True,  # Ctrl-C comes once, from here
                preexec_fn=end_with(os.getpid()),
            )
            for index in range(order.workers)
        ]
        self._readers = [
            threading.Thread(target=self._tell, args=(index, process.stderr), daemon=True)
            for index, process in enumerate(self.processes)
        ]

    def wait(self, signals: Sequence[int]) -> tuple[int, bool]:
        """Waits until all have ended, and ends those that stay behind; returns what `outcome` says.

        Args:
            signals: those that have come, which are passed on.
        """
        for reader in self._readers:
            reader.start()
        try:
            codes = self._ended(signals)
        finally:
            for process in self.processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
            for reader in self._readers:
                reader.join()
        return outcome({index: code for index, code in enumerate(codes) if code is not None}, signals)

    def _ended(self, signals):
        """Waits until all have ended, or those that stay behind have had their time; returns exit codes."""
        deadline = float("inf")
        while True:
            codes = [process.poll() for process in self.processes]
            if None not in codes or time.monotonic() > deadline:
                return codes
            if any(codes):
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            if len(signals) > 1:
                deadline = min(deadline, time.monotonic() + PARTING_SECONDS)
            for number in signals[self._passed_on :]:
                self._passed_on += 1
                for process in self.processes:
                    with contextlib.suppress(ProcessLookupError):
                        process.send_signal(number)
            time.sleep(0.1)

    def _tell(self, index, lines):
        for line in lines:
            self._voices.error(index, line)


def _free_ports(count: int) -> list[int]:
    found = []
    for port in random.sample(PORTS, len(PORTS)):
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            found.append(port)
        if len(found) == count:
            return found
    raise UsageError(f"{count} ports from {PORTS[0]} to {PORTS[-1]} must be free. Received: {len(found)}.")


def _task(addresses, index):
    task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    return {"TF_CONFIG": json.dumps(task)}
