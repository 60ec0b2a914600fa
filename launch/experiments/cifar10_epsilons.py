"""ResNet18 on CIFAR-10 for ε = 0, 2, 4 and 8/255 at the paper's settings: dynamics and losses of four runs.

    python -m launch.experiments.cifar10_epsilons
    python -m launch.experiments.cifar10_epsilons -- --width=2 --epochs=10 --dynamics_steps=200

The settings are those of flags/liu2020/cifar10/resnet18/dynamics_eps<ε>.flags; what follows `--` comes after
them and goes to every `python -m advtf.main`. The runs land in runs/cifar10-eps<ε>; a finished one is not
repeated and a stopped one is continued. Afterwards runs/cifar10-epsilons-dynamics.png (cf. Liu et al. 2020,
Fig. 2) and runs/cifar10-epsilons-loss.png (cf. Fig. 11) are drawn from their files.
"""

from advtf.figures.dynamics import loss_curves, training_dynamics
from launch.common.arguments import data_flags, runs_parser
from launch.common.experiment import Experiment, Figure, main
from launch.common.runs import Run

LEVELS = {"0": "ε = 0", "2": "ε = 2/255", "4": "ε = 4/255", "8": "ε = 8/255"}


def experiment(chosen):
    """Returns a training for each ε, with their dynamics and learning curves."""
    runs = {}
    for level, label in LEVELS.items():
        recipe = f"--recipe=liu2020/cifar10_resnet18_dynamics_eps{level}"
        runs[label] = Run(f"runs/cifar10-eps{level}", (recipe, *data_flags(chosen), *chosen.flags))
    dynamics = {label: run.files.dynamics for label, run in runs.items()}
    metrics = {label: run.files.metrics for label, run in runs.items()}
    figures = (
        Figure(training_dynamics, dynamics, "runs/cifar10-epsilons-dynamics.png"),
        Figure(loss_curves, metrics, "runs/cifar10-epsilons-loss.png"),
    )
    return Experiment((*runs.values(),), figures)


if __name__ == "__main__":
    main(experiment, runs_parser(__doc__))
