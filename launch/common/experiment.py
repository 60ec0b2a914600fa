"""An experiment is a table of runs and the figures that are drawn from their files.

A run is one command of `advtf` with a directory of its own. The directory is the state of the run: what is
finished there is not repeated and what was stopped is continued, so the same experiment can be started again.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advtf.settings.commands import exit_on_usage_error
from advtf.training.directory import TrainingDirectory
from launch.common import arguments, driver, executors
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


def carry_out(experiment: Experiment, jobs: int | None = None) -> None:
    """Finishes all runs, several at a time, and draws the figures.

    The trainings come first, because the analyses need their classifiers. A run that fails stops no other one
    of its kind.

    Args:
        experiment: the runs and the figures.
        jobs: how many runs at a time; None for one for each GPU, or else for each core.

    Raises:
        SystemExit: a run failed, or a signal stopped all of them; the same command continues.
    """
    executor = executors.LocalProcesses(jobs, threads=1)
    trainings = [run for run in experiment.runs if run.kind is TrainingDirectory]
    others = [run for run in experiment.runs if run.kind is not TrainingDirectory]
    for runs in (trainings, others):
        try:
            outcomes = driver.carry_out(runs, executor, retries=1, skip_finished=False)
        except driver.Interrupted as interrupted:
            driver.end_by(interrupted, "the same command")
        if any(outcome.state == "failed" for outcome in outcomes):
            sys.exit(1)
    for figure in experiment.figures:
        print(figure.draw(figure.files, figure.path))


def main(experiment: Callable[[argparse.Namespace], Experiment], made: argparse.ArgumentParser) -> None:
    """Carries out the experiment that the command line chooses.

    Args:
        experiment: makes it from the options; their attribute `flags` is what follows ``--``.
        made: parser of the options.
    """
    made.add_argument(
        "--jobs", type=int, help="runs at a time, of one thread each [one for each GPU or core]"
    )
    with exit_on_usage_error():
        chosen = arguments.parse(made)
        carry_out(experiment(chosen), chosen.jobs)
