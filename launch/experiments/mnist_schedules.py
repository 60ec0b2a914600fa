"""Constant, cosine and linear ε on MNIST at equal settings: three runs and one figure.

    python -m launch.experiments.mnist_schedules
    python -m launch.experiments.mnist_schedules -- --epochs=8 --lr=1e-3 --schedule_unit=step

What follows `--` goes to every `python -m advtf.main`, so width and length can be chosen. The runs land in
runs/mnist-<schedule>; a finished one is not repeated and a stopped one is continued, so the same command can
be given again. Afterwards runs/mnist-schedules.png compares their learning curves.
"""

from advtf.figures.training import compare_runs
from launch.common.arguments import data_flags, runs_parser
from launch.common.experiment import Experiment, Figure, main
from launch.common.runs import Run

SCHEDULES = ("constant", "cosine", "linear")
SETTINGS = ("--dataset=mnist", "--model=lenet", "--width=4", "--eps=0.4")


def experiment(chosen):
    """Returns a training for each schedule, and their learning curves."""
    more = (*data_flags(chosen), *chosen.flags)
    runs = {
        schedule: Run(f"runs/mnist-{schedule}", (*SETTINGS, f"--eps_sched={schedule}", *more))
        for schedule in SCHEDULES
    }
    metrics = {schedule: run.files.metrics for schedule, run in runs.items()}
    return Experiment((*runs.values(),), (Figure(compare_runs, metrics, "runs/mnist-schedules.png"),))


if __name__ == "__main__":
    main(experiment, runs_parser(__doc__))
