"""The top of the Hessian's spectrum for the MNIST models of several ε: one figure.

    python launch/mnist_hessian.py
    python launch/mnist_hessian.py --num_examples=1000 --data_dir=...

Every argument goes to `python -m advtf.analyze`; --data_dir and --eps_sched also go to the training. The
models are those of launch/mnist_epsilons.py, trained now where they are missing. Results lie in
runs/mnist-<schedule>-hessian-eps<ε>; what is finished is not repeated and what was killed is continued, so
the same command can be given again. Afterwards runs/mnist-<schedule>-hessian.png compares the 20 largest
eigenvalues, as they are and normalised by the loss at random θ (cf. Liu et al. 2020, Figs. 3 and 9).
"""

import sys
from pathlib import Path

from mnist_epsilons import EPSILONS, SETTINGS
from mnist_landscapes import analyse
from series import finished, value_of

from advtf.figures.hessian import spectra


def main():
    given = sys.argv[1:]
    training = [flag for flag in given if flag.startswith(("--data_dir=", "--eps_sched="))]
    study = [flag for flag in given if not flag.startswith("--eps_sched=")]
    name = f"mnist-{value_of('eps_sched', given, 'cosine')}"
    results = {}
    for epsilon in EPSILONS:
        run = finished(f"runs/{name}-eps{epsilon}", [*SETTINGS, f"--eps={epsilon}", *training])
        folder = f"runs/{name}-hessian-eps{epsilon}"
        analyse(folder, [f"--model=saved_models/{run.path.name}/last", "--study=hessian", *study])
        results[f"ε = {epsilon}"] = Path(folder) / "hessian" / "hessian.json"
    print(spectra(results, f"runs/{name}-hessian.png"))


if __name__ == "__main__":
    main()
