"""LeNet on MNIST for ε = 0, 0.1, 0.2, 0.3 and 0.4 at equal settings: five runs, their dynamics and losses.

    python launch/mnist_epsilons.py
    python launch/mnist_epsilons.py --eps_sched=constant --epochs=10

A cosine schedule lets all of them train, and their last updates compare; the first updates, where its ε is
still small, differ with a constant ε only.

Every argument goes to `python -m advtf.main`, so data folder, width and length can be chosen (the paper's
settings, with a constant ε, are flags/mnist_lenet_dynamics_*.flags). Width, epochs, batch, learning rate and
seed are those of every run; the attack takes 10 steps of ε/4. Runs land in runs/mnist-<schedule>-eps<ε>; a
finished one is not repeated and a killed one is continued, so the same command can be given again.
Afterwards runs/mnist-<schedule>-epsilons-dynamics.png (cf. Liu et al. 2020, Fig. 8) and
runs/mnist-<schedule>-epsilons-loss.png (cf. Fig. 11) are drawn from their files. The exported models,
saved_models/mnist-<schedule>-eps<ε>/last, are those of the Hessian study (cf. Fig. 9).
"""

import sys

from series import finished, value_of

from advtf.figures.dynamics import loss_curves, training_dynamics

EPSILONS = ("0", "0.1", "0.2", "0.3", "0.4")
SETTINGS = [
    *("--dataset=mnist", "--model=lenet", "--width=4", "--attack_steps=10", "--attack_step_size=eps/4"),
    *("--epochs=24", "--steps_per_epoch=100", "--lr=1e-3", "--schedule_unit=step"),
    *("--precision=bfloat16", "--dynamics_steps=500"),
]


def main():
    given = sys.argv[1:]
    name = f"runs/mnist-{value_of('eps_sched', given, 'cosine')}"
    runs = {
        f"ε = {epsilon}": finished(f"{name}-eps{epsilon}", [*SETTINGS, f"--eps={epsilon}", *given])
        for epsilon in EPSILONS
    }
    dynamics = {label: run.dynamics for label, run in runs.items()}
    print(training_dynamics(dynamics, f"{name}-epsilons-dynamics.png"))
    print(loss_curves({label: run.metrics for label, run in runs.items()}, f"{name}-epsilons-loss.png"))


if __name__ == "__main__":
    main()
