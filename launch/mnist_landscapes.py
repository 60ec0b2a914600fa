"""Similarity of perturbations and the loss surface for the MNIST models of several ε: two figures.

    python launch/mnist_landscapes.py
    python launch/mnist_landscapes.py --num_examples=1000 --surface_points=11 --data_dir=...

Every argument goes to `python -m advtf.analyze`, so the studies can be made smaller or larger; --data_dir and
--eps_sched also go to the training. The models are those of launch/mnist_epsilons.py, trained now where they
are missing. Results lie in runs/mnist-<schedule>-landscape-eps<ε>; what is finished is not repeated and what
was killed is continued, so the same command can be given again. Afterwards
runs/mnist-<schedule>-similarity.png compares the perturbations at θ ± a·v (cf. Liu et al. 2020, Fig. 10;
without ε = 0, which has none) and runs/mnist-<schedule>-surface.png the surfaces (cf. Fig. 12).
"""

import sys
from pathlib import Path

from mnist_epsilons import EPSILONS, SETTINGS
from series import command, finished, value_of

from advtf.figures.similarity import perturbation_similarity
from advtf.figures.surface import loss_surface
from advtf.storage.runfiles import ANALYSIS, RunDirectory


def main():
    given = sys.argv[1:]
    training = [flag for flag in given if flag.startswith(("--data_dir=", "--eps_sched="))]
    study = [flag for flag in given if not flag.startswith("--eps_sched=")]
    name = f"mnist-{value_of('eps_sched', given, 'cosine')}"
    folders = {}
    for epsilon in EPSILONS:
        run = finished(f"runs/{name}-eps{epsilon}", [*SETTINGS, f"--eps={epsilon}", *training])
        studies = "surface" if epsilon == "0" else "similarity,surface"
        folder = f"runs/{name}-landscape-eps{epsilon}"
        analyse(folder, [f"--model=saved_models/{run.path.name}/last", f"--study={studies}", *study])
        folders[f"ε = {epsilon}"] = Path(folder)
    perturbed = {label: path for label, path in folders.items() if label != "ε = 0"}
    similarities = {label: path / "similarity" / "similarity.npz" for label, path in perturbed.items()}
    surfaces = {label: path / "surface" / "surface.npz" for label, path in folders.items()}
    print(perturbation_similarity(similarities, f"runs/{name}-similarity.png"))
    print(loss_surface(surfaces, f"runs/{name}-surface.png"))


def analyse(folder, arguments):
    """Runs the studies, continues what was killed, and leaves alone what is finished."""
    state = RunDirectory(Path(folder), ANALYSIS).state()
    if state != "finished":
        resume = ["--resume"] if state == "unfinished" else []
        command("advtf.analyze", *arguments, *resume, f"--out_dir={folder}")


if __name__ == "__main__":
    main()
