"""Mode connectivity on MNIST for ε = 0, 0.2 and 0.4: pairs of models, a curve between each, one figure.

    python -m launch.experiments.mnist_connectivity
    python -m launch.experiments.mnist_connectivity --data_dir=...

What follows `--` goes to every `python -m advtf.main`, so width and length can be chosen. The settings of the
runs are those of mnist_epsilons, whose models (seed 0) are taken if they are there; the other end of each
curve is trained from seed 1. What is finished is not repeated and what was stopped is continued, so the same
command can be given again. The results lie in runs/mnist-<schedule>-connectivity-eps<ε>, and
runs/mnist-<schedule>-connectivity.png compares the curves (cf. Liu et al. 2020, Fig. 15).
"""

from advtf.figures.connectivity import path_between_minima
from advtf.studies.run import AnalysisDirectory
from launch.common.arguments import data_flags, runs_parser
from launch.common.experiment import Experiment, Figure, main
from launch.common.runs import Run
from launch.experiments.mnist_epsilons import training

EPSILONS = ("0", "0.2", "0.4")
STUDY = ("--study=connectivity", "--num_examples=2000", "--curve_epochs=40", "--curve_points=21")


def experiment(chosen):
    """Returns two trainings and the curve between them for each ε, and the losses on the curves."""
    name, runs, results = f"runs/mnist-{chosen.eps_sched}-connectivity", [], {}
    for epsilon in EPSILONS:
        ends = [
            training(chosen, epsilon, *chosen.flags, f"--seed={seed}", suffix=suffix)
            for seed, suffix in enumerate(("", "-seed1"))
        ]
        models = f"--model={','.join(end.export for end in ends)}"
        study = Run(f"{name}-eps{epsilon}", (models, *STUDY, *data_flags(chosen)), AnalysisDirectory)
        runs += [*ends, study]
        results[f"ε = {epsilon}"] = study.files.path / "connectivity" / "connectivity.npz"
    return Experiment((*runs,), (Figure(path_between_minima, results, f"{name}.png"),))


if __name__ == "__main__":
    main(experiment, runs_parser(__doc__, schedule=True))
