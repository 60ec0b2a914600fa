"""Mode connectivity on MNIST for ε = 0, 0.2 and 0.4: pairs of models, a curve between each, one figure.

    python launch/mnist_connectivity.py
    python launch/mnist_connectivity.py --data_dir=...

Every argument goes to `python -m advtf.main`, so data folder, width and length can be chosen; --data_dir also
goes to the study. The settings of the runs are those of launch/mnist_epsilons.py, whose models (seed 0) are
taken if they are there; the other end of each curve is trained from seed 1. What is finished is not repeated
and what was killed is continued, so the same command can be given again. Results lie in
runs/mnist-<schedule>-connectivity-eps<ε>, and runs/mnist-<schedule>-connectivity.png compares the curves
(cf. Liu et al. 2020, Fig. 15).
"""

import subprocess
import sys
from pathlib import Path

from mnist_epsilons import SETTINGS

from advtf.figures.connectivity import path_between_minima
from advtf.storage.runfiles import ANALYSIS, RunDirectory

EPSILONS = ("0", "0.2", "0.4")
STUDY = ["--study=connectivity", "--num_examples=2000", "--curve_epochs=40", "--curve_points=21"]


def main():
    given = sys.argv[1:]
    schedules = [flag.removeprefix("--eps_sched=") for flag in given if flag.startswith("--eps_sched=")]
    name = f"mnist-{schedules[-1] if schedules else 'cosine'}"
    data = [flag for flag in given if flag.startswith("--data_dir=")]
    results = {}
    for epsilon in EPSILONS:
        runs = [RunDirectory(Path("runs") / f"{name}-eps{epsilon}{suffix}") for suffix in ("", "-seed1")]
        for seed, run in enumerate(runs):
            _finish("advtf.main", run, [*SETTINGS, f"--eps={epsilon}", *given, f"--seed={seed}"])
        models = ",".join(f"saved_models/{run.path.name}/last" for run in runs)
        analysis = RunDirectory(Path("runs") / f"{name}-connectivity-eps{epsilon}", ANALYSIS)
        _finish("advtf.analyze", analysis, [f"--model={models}", *STUDY, *data])
        results[f"ε = {epsilon}"] = analysis.path / "connectivity" / "connectivity.npz"
    print(path_between_minima(results, f"runs/{name}-connectivity.png"))


def _finish(module, run, arguments):
    """Runs a command, continues what was killed, and leaves alone what is finished."""
    if run.state() == "finished":
        return
    if run.state() == "unfinished":
        arguments = [*arguments, "--resume"]
    subprocess.run([sys.executable, "-m", module, *arguments, f"--out_dir={run.path}"], check=True)


if __name__ == "__main__":
    main()
