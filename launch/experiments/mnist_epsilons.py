"""LeNet on MNIST for ε = 0, 0.1, 0.2, 0.3 and 0.4 at equal settings: five runs, their dynamics and losses.

    python -m launch.experiments.mnist_epsilons
    python -m launch.experiments.mnist_epsilons --eps_sched=constant -- --epochs=10

With a cosine schedule all of them train, and their last updates can be compared; the first updates, where its
ε is still small, differ only with a constant ε.

What follows `--` goes to every `python -m advtf.main`, so width and length can be chosen (the paper's
settings, with a constant ε, are flags/liu2020/mnist/lenet/dynamics_eps<ε>.flags). Width, epochs, batch,
learning rate and seed are the same in every run; the attack takes 10 steps of ε/4. The runs land in
runs/mnist-<schedule>-eps<ε>; a finished one is not repeated and a stopped one is continued, so the same
command can be given again. Afterwards runs/mnist-<schedule>-epsilons-dynamics.png (cf. Liu et al. 2020,
Fig. 8) and runs/mnist-<schedule>-epsilons-loss.png (cf. Fig. 11) are drawn from their files. The exported
models, saved_models/mnist-<schedule>-eps<ε>/last, are those of mnist_hessian, mnist_landscapes and
mnist_connectivity.
"""

from advtf.figures.dynamics import loss_curves, training_dynamics
from launch.common.arguments import data_flags, runs_parser
from launch.common.experiment import Experiment, Figure, main
from launch.common.runs import Run

EPSILONS = ("0", "0.1", "0.2", "0.3", "0.4")
SETTINGS = (
    *("--dataset=mnist", "--model=lenet", "--width=4", "--attack_steps=10", "--attack_step_size=eps/4"),
    *("--epochs=24", "--steps_per_epoch=100", "--lr=1e-3", "--schedule_unit=step"),
    *("--precision=bfloat16", "--dynamics_steps=500"),
)


def training(chosen, epsilon, *flags, suffix=""):
    """Returns the run of one ε.

    Args:
        chosen: options with `eps_sched` and `data_dir`.
        epsilon: as it is typed.
        *flags: more settings, which come last.
        suffix: of the run's name.
    """
    settings = (*SETTINGS, f"--eps={epsilon}", f"--eps_sched={chosen.eps_sched}")
    name = f"mnist-{chosen.eps_sched}-eps{epsilon}{suffix}"
    return Run(f"runs/{name}", (*settings, *data_flags(chosen), *flags))


def experiment(chosen):
    """Returns a training for each ε, with their dynamics and learning curves."""
    runs = {f"ε = {epsilon}": training(chosen, epsilon, *chosen.flags) for epsilon in EPSILONS}
    dynamics = {label: run.files.dynamics for label, run in runs.items()}
    metrics = {label: run.files.metrics for label, run in runs.items()}
    name = f"runs/mnist-{chosen.eps_sched}-epsilons"
    figures = (
        Figure(training_dynamics, dynamics, f"{name}-dynamics.png"),
        Figure(loss_curves, metrics, f"{name}-loss.png"),
    )
    return Experiment((*runs.values(),), figures)


if __name__ == "__main__":
    main(experiment, runs_parser(__doc__, schedule=True))
