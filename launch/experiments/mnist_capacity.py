"""Capacity: LeNet of width 16, 8, 4, 2 on MNIST with three ε schedules (Liu et al. 2020, Fig. 14).

    python -m launch.experiments.mnist_capacity --seeds 0 1 2
    python -m launch.experiments.mnist_capacity --widths 4 2 -- --epochs=8 --lr=1e-3 --schedule_unit=step

The settings are those of flags/liu2020/mnist/lenet/[w<w>_]<schedule>.flags; what follows `--` comes after
them and goes to every `python -m advtf.main`. The runs land in runs/capacity-w<w>-<schedule>-seed<seed>; a
finished one is not repeated and a stopped one is continued. Then `python -m advtf.analyze` counts dead units
and dead layers, to runs/capacity-units, and runs/capacity.png shows the test errors.
"""

import itertools

from advtf.figures.capacity import capacity
from advtf.studies.run import AnalysisDirectory
from launch.common.arguments import data_flags, runs_parser
from launch.common.experiment import Experiment, Figure, main
from launch.common.runs import Run

SCHEDULES = ("constant", "cosine", "linear")
WIDTHS = (16, 8, 4, 2)


def parser():
    """Returns the parser of the options."""
    made = runs_parser(__doc__)
    made.add_argument("--widths", type=int, nargs="+", choices=WIDTHS, default=WIDTHS)
    made.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=SCHEDULES)
    made.add_argument("--seeds", type=int, nargs="+", default=[0])
    made.add_argument("--unit_examples", type=int, default=2000, help="training images for dead units")
    return made


def experiment(chosen):
    """Returns a training for each width, schedule and seed, the study of their units, and the errors."""
    data, runs = data_flags(chosen), []
    for width, schedule, seed in itertools.product(chosen.widths, chosen.schedules, chosen.seeds):
        variant = schedule if width == 16 else f"w{width}_{schedule}"  # 16 is the paper's own width
        recipe = f"--recipe=liu2020/mnist_lenet_{variant}"
        name = f"runs/capacity-w{width}-{schedule}-seed{seed}"
        runs.append(Run(name, (recipe, f"--seed={seed}", *data, *chosen.flags)))
    figure = Figure(capacity, [run.path for run in runs], "runs/capacity.png")
    models = f"--model={','.join(run.export for run in runs)}"
    flags = ("--study=dynamics", models, f"--num_examples={chosen.unit_examples}", *data)
    units = Run("runs/capacity-units", flags, AnalysisDirectory, anew=True)  # of the models chosen this time
    return Experiment((*runs, units), (figure,))


if __name__ == "__main__":
    main(experiment, parser())
