"""One evaluation by several processes: they share its batches, through the files of its state.

All of them go through the evaluation in step. In every stage of an attack each takes batches that nobody has
taken yet, computes them and writes them to the state on disk, where the others read them. The batches are
those of one process, with the same images in the same order, whatever has been broken before. So every bit of
the result is that of one process with as many threads as each of these, for any attack.

A batch is taken by a lock of the kernel, which ends with the process: what a killed process had taken,
another one computes. The first process, the leader, is the command itself: it ends a stage on disk and
writes the results. The others are ``python -m advtf.evaluation.sharing FOLDER``, which `Helpers` starts, or
the script which the command was started from, so that they know what it has registered.
"""

import contextlib
import fcntl
import importlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from advtf import processes
from advtf.errors import UsageError
from advtf.processes import last_lines
from advtf.runtime import available_cores
from advtf.storage.cache import CLAIMS, IDENTITY
from advtf.storage.files import write_json

if TYPE_CHECKING:
    from advtf.evaluation.report import EvaluationDirectory

POLL_SECONDS = 0.02
_FOLDER = ".shards-{}.partial"  # of the logs of the others, and of the file that lets them begin
_BEGIN = "begin.json"
_VARIABLE = "ADVTF_EVALUATION_FOLLOWS"  # tells a script that it is one of the others, and their folder
_Result = TypeVar("_Result")


class Alone:
    """One process does all batches, in turn."""

    leads = True

    def batches(
        self,
        names: Sequence[str],
        load: Callable[[str], _Result | None],
        compute: Callable[[int], _Result],
        over: Callable[[], bool],
    ) -> Iterator[_Result]:
        """Yields the result of every batch of a stage in order.

        Args:
            names: of the batches' files.
            load: reads a result that is on disk already; None where it is not.
            compute: computes the result of a batch, by its number, and writes it to the disk.
            over: tells whether the leader has ended the stage.

        Raises:
            StageOver: the leader has ended the stage.
        """
        for number, name in enumerate(names):
            found = load(name)
            yield compute(number) if found is None else found


class StageOver(Exception):
    """The leader has ended a stage while this process was still collecting its batches."""


class Shared(Alone):
    """One of several processes that work on the same state.

    Args:
        folder: of the state; it exists.
        leads: whether this process ends stages on disk.
        present: raises an exception where the leader has gone.
    """

    def __init__(self, folder: Path, leads: bool, present: Callable[[], None] = lambda: None):
        self._folder, self.leads, self._present = Path(folder), leads, present

    def batches(self, names, load, compute, over):
        """Yields the result of every batch of a stage in order; see `Alone.batches`."""
        found: dict[str, Any] = {}
        while len(found) < len(names):
            before = len(found)
            for number, name in enumerate(names):
                if name in found:
                    continue
                self._present()
                done = load(name)
                if done is None:
                    with self._taken(name) as mine:
                        if mine:
                            if over():
                                raise StageOver
                            done = load(name)  # it may have been finished since
                            done = compute(number) if done is None else done
                if done is not None:
                    found[name] = done
            if len(found) == before:
                if over():
                    raise StageOver
                time.sleep(POLL_SECONDS)
        yield from (found[name] for name in names)

    @contextlib.contextmanager
    def _taken(self, name):
        """Tells within whether the batch is this process's to compute."""
        place = int.from_bytes(name.encode(), "big") % (2**31 - 1)  # of its byte in the file of locks
        with open(self._folder / CLAIMS, "ab") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except OSError:
                yield False
                return
            yield True


class Helpers:
    """The other processes of an evaluation, for as long as the context lasts.

    They are started at its beginning, so that their TensorFlow starts while that of the leader does, and wait
    until `begin` is called.

    Args:
        run: the directory of the evaluation.
        count: how many.
        cluster: address of the Ray cluster whose tasks they are; None for processes of this machine.
        script: the path of the script which has started the command; None for the command itself.
        say: called with a line where one of them has failed.
    """

    def __init__(
        self,
        run: "EvaluationDirectory",
        count: int,
        cluster: str | None,
        script: str | None = None,
        say: Callable[[str], None] = print,
    ):
        self._run, self._count, self._cluster, self._script, self._say = run, count, cluster, script, say
        # A name that is no part of any run: the directory may still be in use, or hold a run to be replaced.
        self._folder = run.path / _FOLDER.format(os.urandom(8).hex())
        self._ray, self._processes, self._tasks = None, [], []

    def __enter__(self) -> "Helpers":
        if not self._count:
            return self
        if self._cluster:
            self._ray = processes.connect_ray(self._cluster)
        gpus, threads = processes.visible_gpus(), threads_of_each(self._count + 1)
        pinned = {} if gpus else processes.thread_settings(threads)
        settings = dict(pinned)
        command = [sys.executable, "-m", "advtf.evaluation.sharing", str(self._folder)]
        if self._script:
            command = [sys.executable, os.path.abspath(self._script)]
            settings |= {_VARIABLE: str(self._folder)}
        for number in range(1, self._count + 1):
            if self._ray:
                submit = processes.ray_task(self._ray, threads, int(bool(gpus)))
                self._tasks.append(submit(command, self._log(number), os.getcwd(), settings))
            else:
                own = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
                self._processes.append(
                    processes.spawn(command, self._log(number), os.getcwd(), settings | own)
                )
        os.environ.update(pinned)  # read by the TensorFlow of this process, which is not imported yet
        return self

    def begin(self) -> None:
        """Lets the others begin: the directory is this run's, and its settings are in it."""
        if self._count:
            for folder in set(self._run.path.glob(_FOLDER.format("*"))) - {self._folder}:
                shutil.rmtree(folder, ignore_errors=True)  # of a leader that was killed
            write_json(self._folder / _BEGIN, {})

    def end(self) -> None:
        """Ends the others; nothing is left for them to do."""
        for number, process in enumerate(self._processes, 1):
            code = process.poll()
            process.kill()
            process.wait()
            if code not in (None, 0):
                said = last_lines(self._log(number), 1)
                self._say(
                    f"warning: shard {number} ended with code {code} before its time ({''.join(said)}). "
                    "The others have done its batches."
                )
        if self._ray:
            for task in self._tasks:
                self._ray.cancel(task, force=True)
            self._ray.shutdown()
        self._ray, self._processes, self._tasks = None, [], []
        shutil.rmtree(self._folder, ignore_errors=True)

    def __exit__(self, *exception: object) -> None:
        self.end()

    def _log(self, number):
        return self._folder / f"shard{number}.log"


def threads_of_each(count: int) -> int:
    """Returns the threads of each of `count` processes: those of the environment, else a share of the
    cores."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else max(1, available_cores() // count)


def leader_of_script() -> Path | None:
    """Returns the folder of the `Helpers` that have started this script; None where it leads itself."""
    folder = os.environ.get(_VARIABLE)
    return Path(folder) if folder else None


def follow_to_the_end(folder: Path) -> None:
    """Calls `follow`; a mistake ends the process in one line."""
    try:
        follow(folder)
    except UsageError as error:
        sys.exit(f"error: {error}")


def follow(folder: Path) -> None:
    """Takes part in an evaluation until its leader, whose `Helpers` have this folder, ends this process."""
    parent = os.getppid()

    def present() -> None:
        if os.getppid() != parent:
            sys.exit(128 + signal.SIGTERM)

    def wait_for(ready: Callable[[], bool]) -> None:
        while not ready():
            present()
            time.sleep(POLL_SECONDS)

    from advtf import runtime
    from advtf.evaluation.report import EvaluationDirectory
    from advtf.evaluation.run import EvaluateOptions, load, start_runtime
    from advtf.evaluation.settings import AttackSettings

    runtime.import_tensorflow()
    run = EvaluationDirectory(folder.parent)
    wait_for((folder / _BEGIN).exists)
    settings, options = run.stored(AttackSettings, "config"), run.stored(EvaluateOptions, "options")
    start_runtime(settings)
    from advtf.evaluation.engine import evaluate_classifier

    classifier, x, y = load(settings, options)
    wait_for(lambda: (run.attacked / IDENTITY).exists())
    evaluate_classifier(
        classifier,
        x,
        y,
        settings,
        epsilon_grid=options.eps_grid,
        state_dir=run.attacked,
        checks=False,  # the leader looks for warnings, in the whole
        sharing=Shared(run.attacked, leads=False, present=present),
    )


if __name__ == "__main__":
    # The module itself is run under another name, with other classes than those that the engine knows.
    importlib.import_module("advtf.evaluation.sharing").follow_to_the_end(Path(sys.argv[1]))
