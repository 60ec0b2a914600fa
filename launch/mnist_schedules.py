"""Constant, cosine and linear ε on MNIST at equal settings: three runs and one figure.

    python launch/mnist_schedules.py --epochs=8 --lr=1e-3 --schedule_unit=step --precision=bfloat16

Every argument goes to `python -m advtf.main`, so data folder, width and length can be chosen. Runs land in
runs/mnist-<schedule>; a finished one is not repeated and a killed one is continued, so the same command can
be given again. Afterwards runs/mnist-schedules.png compares their learning curves.
"""

import subprocess
import sys
from pathlib import Path

from advtf.figures.training import compare_runs
from advtf.storage.rundir import RunDirectory

SCHEDULES = ("constant", "cosine", "linear")
SETTINGS = ["--dataset=mnist", "--model=lenet", "--width=4", "--eps=0.4"]


def main():
    for schedule in SCHEDULES:
        run = RunDirectory(Path("runs") / f"mnist-{schedule}")
        arguments = [*SETTINGS, f"--eps_sched={schedule}", f"--out_dir={run.path}", *sys.argv[1:]]
        if run.state() in ("finished", "unfinished"):
            arguments.append("--resume")
        subprocess.run([sys.executable, "-m", "advtf.main", *arguments], check=True)
    metrics = {schedule: f"runs/mnist-{schedule}/metrics.jsonl" for schedule in SCHEDULES}
    print(compare_runs(metrics, "runs/mnist-schedules.png"))


if __name__ == "__main__":
    main()
