"""ResNet18 on CIFAR-10 for ε = 0, 2, 4 and 8/255 at the paper's settings: dynamics and losses of four runs.

    python launch/cifar10_epsilons.py
    python launch/cifar10_epsilons.py --width=2 --epochs=10 --steps_per_epoch=100 --dynamics_steps=200

The settings are those of flags/cifar10_resnet18_dynamics_eps<ε>.flags; every argument comes after them and
goes to `python -m advtf.main`. Runs land in runs/cifar10-eps<ε>; a finished one is not repeated and a killed
one is continued. Afterwards runs/cifar10-epsilons-dynamics.png (cf. Liu et al. 2020, Fig. 2) and
runs/cifar10-epsilons-loss.png (cf. Fig. 11) are drawn from their files.
"""

import sys
from pathlib import Path

from series import finished

from advtf.figures.dynamics import loss_curves, training_dynamics

FLAGS = Path(__file__).parent.parent / "flags"
LEVELS = {"0": "ε = 0", "2": "ε = 2/255", "4": "ε = 4/255", "8": "ε = 8/255"}


def main():
    runs = {}
    for level, label in LEVELS.items():
        flagfile = f"--flagfile={FLAGS / f'cifar10_resnet18_dynamics_eps{level}.flags'}"
        runs[label] = finished(f"runs/cifar10-eps{level}", [flagfile, *sys.argv[1:]])
    dynamics = {label: run.dynamics for label, run in runs.items()}
    print(training_dynamics(dynamics, "runs/cifar10-epsilons-dynamics.png"))
    print(loss_curves({label: run.metrics for label, run in runs.items()}, "runs/cifar10-epsilons-loss.png"))


if __name__ == "__main__":
    main()
