"""Starts the workers of one training, and starts them again where one was killed.

python -m launch.cluster --workers=2 -- --out_dir=runs/two --dataset=mnist      two processes on this machine

What follows `--` are the flags of ``python -m advtf.main``; ``--strategy=multi_worker`` is added. The folder
of `--out_dir` must be one that all workers share. On this machine every worker has one thread, and 127.0.0.1
is the only network that is used. Ctrl-C and SIGTERM are passed on: the training saves a checkpoint and stops.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from advtf.errors import UsageError, require_whole
from advtf.processes import end_with, thread_settings
from advtf.settings import commands
from advtf.storage.identity import Identity
from advtf.training.directory import TrainingDirectory
from advtf.training.settings import RunOptions, TrainConfig
from launch.common import arguments

GRACE_SECONDS = 30  # in which the others end by themselves when one has ended
STRATEGY = "--strategy=multi_worker"


def main() -> None:
    """Reads the command line and runs the workers; exits with the code of the training."""
    parser = arguments.parser(__doc__)
    parser.add_argument("--workers", type=int, required=True, metavar="N", help="how many workers there are")
    parser.add_argument(
        "--threads", type=int, default=1, metavar="T", help="threads of each worker [%(default)s]"
    )
    parser.add_argument(
        "--max_failures",
        type=int,
        default=0,
        metavar="K",
        help="how often all are started again, from the last checkpoint, after one was killed [%(default)s]",
    )
    chosen = arguments.parse(parser)
    with commands.exit_on_usage_error():
        require_whole("workers", chosen.workers)
        require_whole("threads", chosen.threads)
        require_whole("max_failures", chosen.max_failures, 0)
        out_dir = _out_dir(chosen.flags)
        sys.exit(_train_here(chosen.workers, chosen.threads, chosen.max_failures, out_dir, chosen.flags))


def _out_dir(given: Sequence[str]) -> Path:
    """Returns the folder of the run, after reading all flags, so that a mistake is told once."""
    values = flags.FlagValues()
    commands.define_flags(TrainConfig, RunOptions, flag_values=values)
    commands.parse_flags([STRATEGY, *given], values, recipes=True)
    options = RunOptions.of(commands.given_flags(values, RunOptions))
    if not options.out_dir:
        raise UsageError(
            "the workers need a folder to share. Received: no out_dir after --. Add --out_dir=DIR."
        )
    if not options.resume:
        config = TrainConfig.of(commands.given_flags(values, TrainConfig))
        if config.strategy != "multi_worker":
            raise UsageError(
                f"workers train with strategy=multi_worker. Received: strategy={config.strategy}."
            )
    return Path(options.out_dir)


def continued(given: Sequence[str], run: TrainingDirectory, before: Identity | None) -> list[str]:
    """Returns the flags with which a run that was killed goes on; the same ones if it had not begun.

    Args:
        given: the flags that it was started with.
        run: its directory.
        before: the run that was there before, which `--overwrite` may have been meant for.
    """
    begun = run.identity()
    if begun is None or (before and begun.id == before.id):
        return list(given)
    kept = [flag for flag in given if flag.lstrip("-").partition("=")[0] not in ("overwrite", "resume")]
    return [*kept, "--resume"]


def _train_here(workers, threads, max_failures, out_dir, given):
    run = TrainingDirectory(out_dir)
    before = run.identity()
    for attempt in range(max_failures + 1):
        group = _Group(workers, threads, continued(given, run, before))
        code = group.wait()
        if not group.killed or attempt == max_failures:
            return code
        print(f"A worker was killed. Starting all again ({attempt + 1} of {max_failures}).", flush=True)


class _Group:
    """The processes of one attempt."""

    def __init__(self, workers: int, threads: int, given: Sequence[str]):
        addresses = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
        self.stopped, self.killed, self._told = False, False, set()
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "advtf.main", STRATEGY, *given],
                env=os.environ | _environment(addresses, index, threads),
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C comes once, from here
                preexec_fn=end_with(os.getpid()),
            )
            for index in range(workers)
        ]
        self._readers = [
            threading.Thread(target=self._tell, args=(index, process.stderr), daemon=True)
            for index, process in enumerate(self.processes)
        ]

    def wait(self) -> int:
        """Waits until all have ended, and ends those that stay behind; returns the exit code of the first."""
        for reader in self._readers:
            reader.start()
        previous = {
            number: signal.signal(number, self._pass_on) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            first = self._first_to_end()
            self._end_within(GRACE_SECONDS)
        finally:
            for process in self.processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
            for number, handler in previous.items():
                signal.signal(number, handler)
            for reader in self._readers:
                reader.join()
        self.killed = first.returncode < 0 and not self.stopped
        return 128 - first.returncode if first.returncode < 0 else first.returncode

    def _first_to_end(self):
        while True:
            ended = [process for process in self.processes if process.poll() is not None]
            if failed := [process for process in ended if process.returncode]:
                return min(
                    failed, key=lambda process: process.returncode
                )  # a killed one before those it ends
            if len(ended) == len(self.processes):
                return ended[0]
            time.sleep(0.1)

    def _end_within(self, seconds):
        deadline = time.monotonic() + seconds
        while any(process.poll() is None for process in self.processes) and time.monotonic() < deadline:
            time.sleep(0.1)

    def _pass_on(self, number, frame):
        self.stopped = True
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def _tell(self, index, lines):
        """Passes a worker's errors on; what several say alike is said once."""
        for line in lines:
            if line not in self._told:
                self._told.add(line)
                print(
                    line if line.startswith("error:") else f"worker {index}: {line}", end="", file=sys.stderr
                )


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _environment(addresses, index, threads):
    task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    return {"TF_CONFIG": json.dumps(task)} | thread_settings(threads)


if __name__ == "__main__":
    main()
