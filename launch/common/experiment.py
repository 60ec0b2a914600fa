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
from launch.common import arguments
from launch.common.runs import Run


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
