"""The workers of one training as those of Ray Train, on the machines of a cluster.

Ray Train chooses the machines, tells each worker by TF_CONFIG who the others are, and starts all of them
again where one has failed. A worker runs ``python -m advtf.main`` in a process of its own, as on one machine:
a training wants the main thread of its process, and can be killed without Ray's worker. What the processes
say and how they end goes through an actor beside the driver, the `_Board`, and signals go back the same way.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advtf.errors import first_line
from advtf.processes import (
    connect_ray,
    describe_ray,
    end_with,
    is_locked,
    ray_environment,
    signals_received,
)
from advtf.runtime import available_cores
from advtf.storage.run_directory import LOCK
from advtf.training.cluster import Cluster
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

POLL_SECONDS = 0.5
START_SECONDS = 3600  # that Ray Train waits for as many machines as are needed, before it tries anew


def train(address: str, order: Order) -> int:
    """Trains on a Ray cluster; returns the exit code of the training.

    Args:
        address: of the cluster, see `advtf.processes.connect_ray`.
        order: what is asked for.

    Raises:
        UsageError: Ray is not installed, or no cluster answers.
    """
    before = TrainingDirectory(order.out_dir).identity()
    try:
        ray = connect_ray(address, max(available_cores(), order.workers * order.threads))
    except KeyboardInterrupt:
        print("Interrupted before the training began.", flush=True)
        return 128 + signal.SIGINT
    with signals_received() as signals:  # only now: Ray has set handlers of its own
        try:
            print(f"{'work':<10}{describe_ray(ray)}", flush=True)
            return _watched(ray, order, before, signals)
        finally:
            ray.shutdown()


def _watched(ray, order, before, signals):
    """Trains, passes on what the workers say, and tells them of signals; returns the exit code."""
    here = ray.get_runtime_context().get_node_id()
    board = ray.remote(num_cpus=0, label_selector={ray._raylet.RAY_NODE_ID_KEY: here})(_Board).remote()
    training = _Training(order, {"order": order, "before": before, "folder": Path.cwd(), "board": board})
    training.start()
    voices, attempts, passed_on, idle = Voices(), 0, 0, time.monotonic()
    while True:
        over = not training.is_alive()
        for number in signals[passed_on:]:
            passed_on += 1
            ray.get(board.stop.remote(number))
        news, working = ray.get(board.news.remote())
        for attempt, worker, stream, line in news:
            if attempt > attempts:
                attempts, voices = attempt, Voices()
                tell_another(attempt, order.max_failures)
            if stream == "out":
                voices.out(line)
            else:
                voices.error(worker, line)
        idle = time.monotonic() if working or not signals else idle
        if over or time.monotonic() - idle > PARTING_SECONDS:  # such as while machines are waited for
            break
        training.join(POLL_SECONDS)
    codes = ray.get(board.codes.remote())
    code = outcome(codes, signals)[0] if codes or signals else 0
    if code or not training.failed:
        return code
    print(f"error: all workers must end well. Received: {training.failed}", file=sys.stderr)
    return 1


class _Training(threading.Thread):
    """Ray Train's part, in a thread of its own, as it would take Ctrl-C for itself in the main one."""

    def __init__(self, order: Order, work: Mapping[str, Any]):
        super().__init__(daemon=True)
        self._order, self._work = order, work
        self.failed: str | None = None

    def run(self) -> None:
        try:
            self._train()
        except Exception as error:  # of a worker, its machine, Ray or gRPC
            self.failed = first_line(error)

    def _train(self):
        from advtf.runtime import import_tensorflow

        import_tensorflow()  # Ray would do it, with all its messages
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_SECONDS))
        os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.tensorflow import TensorflowTrainer

        order = self._order
        resources = {"CPU": order.threads} | ({"GPU": order.gpus} if order.gpus else {})
        with tempfile.TemporaryDirectory(prefix="advtf-ray-") as storage:  # the run has its own checkpoints
            trainer = TensorflowTrainer(
                _work,
                train_loop_config=self._work,
                scaling_config=ScalingConfig(
                    num_workers=order.workers, use_gpu=bool(order.gpus), resources_per_worker=resources
                ),
                run_config=RunConfig(
                    name=order.out_dir.name,
                    storage_path=storage,
                    failure_config=FailureConfig(max_failures=order.max_failures),
                    worker_runtime_env=ray_environment(),
                ),
            )
            trainer.fit()


class _Board:
    """What the workers and the driver leave for each other; an actor of Ray."""

    def __init__(self):
        self._attempts, self._codes, self._working = [], {}, set()
        self._news, self._signals = [], []

    def begin(self, attempt: str, worker: int) -> tuple[int, list[int]]:
        """Takes in a worker of an attempt, of which every one has a name of its own; returns the attempt's
        number, counted from 0, and the signals so far."""
        if attempt not in self._attempts:
            self._attempts.append(attempt)
            self._codes, self._working = {}, set()
            self._news.append((len(self._attempts) - 1, worker, "out", ""))
        if attempt == self._attempts[-1]:
            self._working.add(worker)
        return self._attempts.index(attempt), self._signals

    def report(self, attempt: str, worker: int, lines: list, code: int | None) -> tuple[list[int], bool]:
        """Takes what a worker has said, (stream, line) each, and its exit code when it has ended.

        Returns:
            The signals so far, and whether another worker of the attempt has failed.
        """
        number = self._attempts.index(attempt)
        self._news += [(number, worker, *line) for line in lines]
        if number < len(self._attempts) - 1:  # others have taken over
            return self._signals, True
        if code is not None:
            self._codes[worker] = code
        return self._signals, any(self._codes.values())

    def leave(self, attempt: str, worker: int) -> None:
        """Takes note that the process of a worker has ended, by itself or by force."""
        if attempt == self._attempts[-1]:
            self._working.discard(worker)

    def works(self, attempt: str) -> bool:
        """Returns whether some worker of an attempt still has a process."""
        return attempt == self._attempts[-1] and bool(self._working)

    def is_repeated(self, attempt: str) -> bool:
        """Returns whether an attempt that has ended is to be repeated."""
        return attempt == self._attempts[-1] and outcome(self._codes, self._signals)[1]

    def stop(self, number: int) -> None:
        """Takes in a signal that every worker is to get."""
        self._signals.append(number)

    def news(self) -> tuple[list, int]:
        """Returns what the workers have said since the last call, and how many of them work."""
        news, self._news = self._news, []
        return news, len(self._working)

    def codes(self) -> dict[int, int]:
        """Returns the exit codes of the last attempt."""
        return self._codes


def _work(work: Mapping[str, Any]) -> None:
    """Runs one worker, on the machine that Ray has chosen for it.

    Raises:
        RuntimeError: a worker was lost, upon which Ray Train starts all of them again.
    """
    import ray

    cluster = Cluster.of_process()
    # Ray Train places the workers of every attempt anew; addresses and ports may come again.
    name = ray.get_runtime_context().get_placement_group_id()
    board, order = work["board"], work["order"]
    run = TrainingDirectory(work["folder"] / order.out_dir)
    attempt, signals = ray.get(board.begin.remote(name, cluster.index))
    if attempt:  # the chief of the one before may still save a checkpoint
        _wait(lambda: not is_locked(run.path / LOCK))
    if signals:
        ray.get(board.leave.remote(name, cluster.index))
        return
    given = continued(order.flags, run, work["before"])
    environment = {each: value for each, value in os.environ.items() if each != "TF_USE_LEGACY_KERAS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "advtf.main", STRATEGY, *given],
        cwd=work["folder"],
        env=environment | order.environment | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",  # a line that cannot be read must not stop the reader
        start_new_session=True,
        preexec_fn=_as_a_child(),
    )
    try:
        code, signals = _accompanied(
            process, lambda lines, code: ray.get(board.report.remote(name, cluster.index, lines, code))
        )
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        ray.get(board.leave.remote(name, cluster.index))
    if code and not signals:
        _wait(lambda: not ray.get(board.works.remote(name)))  # for those that save something, or stay behind
        if ray.get(board.is_repeated.remote(name)):
            raise RuntimeError(f"worker {cluster.index} has ended with code {code}")


def _accompanied(process, report):
    """Reports what a process says until it has ended; returns its exit code, None where others have failed
    and it stays behind, and the signals that have come."""
    lines = queue.SimpleQueue()

    def read(stream, pipe):
        for line in pipe:
            lines.put((stream, line))

    readers = [
        threading.Thread(target=read, args=each, daemon=True)
        for each in (("out", process.stdout), ("error", process.stderr))
    ]
    for reader in readers:
        reader.start()
    passed_on, deadline = 0, float("inf")
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)
        code = process.poll()
        if code is not None:
            for reader in readers:
                reader.join()
        signals, failed = report([lines.get() for _ in range(lines.qsize())], code)
        if code is not None:
            return code, signals
        for number in signals[passed_on:]:
            process.send_signal(number)
            passed_on += 1
        if failed or passed_on > 1:
            deadline = min(deadline, time.monotonic() + (GRACE_SECONDS if failed else PARTING_SECONDS))
        if time.monotonic() > deadline:
            return None, signals


def _as_a_child():
    end = end_with(os.getpid())

    def prepare():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # which Ray blocks in its processes
        if end:
            end()

    return prepare


def _wait(over):
    deadline = time.monotonic() + GRACE_SECONDS + PARTING_SECONDS
    while not over() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
