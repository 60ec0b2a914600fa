"""The top of the Hessian's spectrum for the MNIST models of several ε: one figure.

    python -m launch.experiments.mnist_hessian
    python -m launch.experiments.mnist_hessian --data_dir=... -- --num_examples=1000

What follows `--` goes to every `python -m advtf.analyze`. The models are those of mnist_epsilons, which are
trained now where they are missing. The results lie in runs/mnist-<schedule>-hessian-eps<ε>; what is finished
is not repeated and what was stopped is continued, so the same command can be given again. Afterwards
runs/mnist-<schedule>-hessian.png compares the 20 largest eigenvalues, as they are and normalised by the loss
at random θ (cf. Liu et al. 2020, Figs. 3 and 9).
"""

from advtf.figures.hessian import spectra
from advtf.studies.run import AnalysisDirectory
from launch.common.arguments import data_flags, runs_parser
from launch.common.experiment import Experiment, Figure, main
from launch.common.runs import Run
from launch.experiments.mnist_epsilons import EPSILONS, training


def experiment(chosen):
    """Returns a training and a study for each ε, and the spectra."""
    name, runs, results = f"runs/mnist-{chosen.eps_sched}-hessian", [], {}
    for epsilon in EPSILONS:
        model = training(chosen, epsilon)
        flags = (f"--model={model.export}", "--study=hessian", *data_flags(chosen), *chosen.flags)
        study = Run(f"{name}-eps{epsilon}", flags, AnalysisDirectory)
        runs += [model, study]
        results[f"ε = {epsilon}"] = study.files.path / "hessian" / "hessian.json"
    return Experiment((*runs,), (Figure(spectra, results, f"{name}.png"),))


if __name__ == "__main__":
    main(experiment, runs_parser(__doc__, schedule=True))
