"""Similarity of perturbations and the loss surface for the MNIST models of several ε: two figures.

    python -m launch.experiments.mnist_landscapes
    python -m launch.experiments.mnist_landscapes --data_dir=... -- --num_examples=1000 --surface_points=11

What follows `--` goes to every `python -m advtf.analyze`, so the studies can be made smaller or larger. The
models are those of mnist_epsilons, which are trained now where they are missing. The results lie in
runs/mnist-<schedule>-landscape-eps<ε>; what is finished is not repeated and what was stopped is continued,
so the same command can be given again. Afterwards runs/mnist-<schedule>-similarity.png compares the
perturbations at θ ± a·v (cf. Liu et al. 2020, Fig. 10; without ε = 0, which has none) and
runs/mnist-<schedule>-surface.png the surfaces (cf. Fig. 12).
"""

from advtf.figures.similarity import perturbation_similarity
from advtf.figures.surface import loss_surface
from advtf.studies.run import AnalysisDirectory
from launch.common.arguments import data_flags, runs_parser
from launch.common.experiment import Experiment, Figure, main
from launch.common.runs import Run
from launch.experiments.mnist_epsilons import EPSILONS, training


def experiment(chosen):
    """Returns a training and two studies for each ε, and a figure of each study."""
    name, runs = f"runs/mnist-{chosen.eps_sched}", []
    similarities, surfaces = {}, {}
    for epsilon in EPSILONS:
        model = training(chosen, epsilon)
        studies = "surface" if epsilon == "0" else "similarity,surface"
        flags = (f"--model={model.export}", f"--study={studies}", *data_flags(chosen), *chosen.flags)
        study = Run(f"{name}-landscape-eps{epsilon}", flags, AnalysisDirectory)
        runs += [model, study]
        surfaces[f"ε = {epsilon}"] = study.files.path / "surface" / "surface.npz"
        if epsilon != "0":
            similarities[f"ε = {epsilon}"] = study.files.path / "similarity" / "similarity.npz"
    figures = (
        Figure(perturbation_similarity, similarities, f"{name}-similarity.png"),
        Figure(loss_surface, surfaces, f"{name}-surface.png"),
    )
    return Experiment((*runs,), figures)


if __name__ == "__main__":
    main(experiment, runs_parser(__doc__, schedule=True))
