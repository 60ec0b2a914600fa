"""Where the processes of many runs work: on this machine, or on those of a Ray cluster.

Both start the same command with its output in the same log, in the folder that the driver works in, which all
machines of a cluster have to share. An executor has ``room()``, ``start(run, command)``, which returns an
attempt, and ``close()``. An attempt has ``code()``, None while it lasts, and ``stop(at_once)``.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from advtf import processes
from advtf.runtime import available_cores
from advtf.settings.fields import Settings, setting, text, whole
from launch.common.runs import Run


@dataclass(frozen=True, kw_only=True)
class WorkOptions(Settings):
    """Where the processes of a command with many runs work."""

    jobs: int | None = setting(
        "work", whole(1), "runs at a time; default one for each GPU, else for each core", None
    )
    threads: int = setting("work", whole(1), "threads of each run, which its last digits depend on", 1)
    retries: int = setting("work", whole(0), "how often a run that was killed is continued", 1)
    cluster: str | None = setting(
        "work", text(), "Ray cluster: host:port, auto for that of this machine, local to start one", None
    )
    gpus: int = setting("work", whole(0), "GPUs that each run asks the cluster for", 0)

    def executor(self) -> "LocalProcesses | RayTasks":
        """Returns the executor that is chosen.

        Raises:
            UsageError: there is no such cluster.
        """
        if self.cluster is None:
            return LocalProcesses(self.jobs, self.threads)
        return RayTasks(self.cluster, self.jobs, self.threads, self.gpus)


class LocalProcesses:
    """Runs on this machine, each in a process with the same number of threads, or on a GPU of its own.

    Args:
        jobs: how many at a time; None for as many as there are GPUs, or else cores for their threads.
        threads: of each run.
    """

    def __init__(self, jobs: int | None, threads: int):
        self._gpus, self._threads = processes.visible_gpus(), threads
        self.jobs = jobs or len(self._gpus) or max(1, available_cores() // threads)
        self._attempts: list[_Process] = []

    def describe(self) -> str:
        """Returns where the runs work, in a few words."""
        place = f"{len(self._gpus)} GPU" if self._gpus else "this machine"
        return f"{place}, {self.jobs} at a time, threads of each: {self._threads}"

    def room(self) -> int:
        """Returns how many more runs can be started now."""
        return self.jobs - len(self._working())

    def start(self, run: Run, command: list[str]) -> "_Process":
        """Starts a run.

        Raises:
            UsageError: another process holds its log.
            OSError: its log cannot be written.
        """
        environment, gpu = processes.thread_settings(self._threads), None
        if self._gpus:
            taken = [attempt.gpu for attempt in self._working()]
            gpu = min(self._gpus, key=taken.count)
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        attempt = _Process(processes.spawn(command, run.log, os.getcwd(), environment), gpu)
        self._attempts.append(attempt)
        return attempt

    def close(self) -> None:
        """Has nothing to give back."""

    def _working(self):
        self._attempts = [attempt for attempt in self._attempts if attempt.code() is None]
        return self._attempts


@dataclass
class _Process:
    process: subprocess.Popen
    gpu: str | None

    def code(self) -> int | None:
        return self.process.poll()

    def stop(self, at_once: bool) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)


class RayTasks:
    """Runs as tasks of a Ray cluster, which gives each the cores or the GPU that it asks for.

    Args:
        address: as for `advtf.processes.connect_ray`.
        jobs: how many at a time; None leaves it to Ray.
        threads: of each run, and the cores that it asks for.
        gpus: that each run asks for.

    Raises:
        UsageError: Ray is not installed, or no cluster answers at the address.
    """

    def __init__(self, address: str, jobs: int | None, threads: int, gpus: int):
        self._ray, self._jobs, self._threads = processes.connect_ray(address), jobs, threads
        self._submit = processes.ray_task(self._ray, threads, gpus)
        self._attempts: list[_Task] = []

    def describe(self) -> str:
        """Returns where the runs work, in a few words."""
        return f"{processes.describe_ray(self._ray)}, threads of each run: {self._threads}"

    def room(self) -> int:
        """Returns how many more runs can be handed to Ray, which lets them wait for their turn."""
        if self._jobs is None:
            return sys.maxsize
        self._attempts = [attempt for attempt in self._attempts if attempt.code() is None]
        return self._jobs - len(self._attempts)

    def start(self, run: Run, command: list[str]) -> "_Task":
        """Hands a run to Ray."""
        environment = processes.thread_settings(self._threads)
        attempt = _Task(self._ray, self._submit(command, run.log, os.getcwd(), environment))
        self._attempts.append(attempt)
        return attempt

    def close(self) -> None:
        """Leaves the cluster, and ends it if it was started here."""
        self._ray.shutdown()


@dataclass
class _Task:
    ray: Any
    reference: Any
    ended: int | None = None

    def code(self) -> int | None:
        if self.ended is None and self.ray.wait([self.reference], timeout=0)[0]:
            try:
                self.ended = self.ray.get(self.reference)
            except (
                Exception
            ):  # the worker, its machine or the task was ended, each by an exception of its own
                self.ended = -signal.SIGKILL
        return self.ended

    def stop(self, at_once: bool) -> None:
        # The worker is ended by force: its process gets SIGTERM when it has gone, and saves a checkpoint.
        self.ray.cancel(self.reference, force=True)
