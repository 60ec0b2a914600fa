"""An experiment is a table of runs and the figures that are drawn from their files.

A run is one command of `advtf` with a directory of its own. The directory is the state of the run: what is
finished there is not repeated and what was stopped is continued, so the same experiment can be started again.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advtf.settings.commands import exit_on_usage_error
from advtf.storage.run_directory import RunDirectory
from advtf.training.directory import TrainingDirectory
from launch.common import arguments


@dataclass(frozen=True)
class Run:
    """One command and the directory of its results.

    Attributes:
        path: of the directory.
        flags: of the command, without those that choose or continue the directory.
        kind: of the directory, which tells the command.
        anew: replace what is there instead of continuing it.
    """

    path: str
    flags: tuple[str, ...]
    kind: type[RunDirectory] = TrainingDirectory
    anew: bool = False

    @property
    def files(self) -> RunDirectory:
        """The files of the run, by name."""
        return self.kind(Path(self.path))

    @property
    def export(self) -> str:
        """The classifier of the last epoch that a training exports."""
        return f"saved_models/{Path(self.path).name}/last"

    def command(self) -> list[str]:
        """Returns the command that brings the run to its end from the state that it is in now."""
        if self.anew:
            how = ["--overwrite"]
        else:
            how = ["--resume"] if self.files.state() in ("finished", "unfinished") else []
        command = [sys.executable, "-m", f"advtf.{self.kind.command}", *self.flags]
        return [*command, f"--out_dir={self.path}", *how]


@dataclass(frozen=True)
class Figure:
    """A figure of several runs.

    Attributes:
        draw: a function of `advtf.figures` that takes the files and the path.
        files: results of the runs, by label or in a list.
        path: of the picture.
    """

    draw: Callable[[Any, str], Path]
    files: Any
    path: str


@dataclass(frozen=True)
class Experiment:
    """What is run and what is drawn.

    Attributes:
        runs: a run comes after those whose classifiers it needs.
        figures: drawn when all runs are finished.
    """

    runs: tuple[Run, ...]
    figures: tuple[Figure, ...]


def carry_out(experiment: Experiment) -> None:
    """Finishes all runs, one after another, and draws the figures.

    Raises:
        SystemExit: a command failed; with its exit code, and without starting the next.
    """
    for run in experiment.runs:
        done = subprocess.run(run.command(), check=False)
        if done.returncode:
            sys.exit(done.returncode)
    for figure in experiment.figures:
        print(figure.draw(figure.files, figure.path))


def main(experiment: Callable[[argparse.Namespace], Experiment], made: argparse.ArgumentParser) -> None:
    """Carries out the experiment that the command line chooses.

    Args:
        experiment: makes it from the options; their attribute `flags` is what follows ``--``.
        made: parser of the options.
    """
    with exit_on_usage_error():
        carry_out(experiment(arguments.parse(made)))
