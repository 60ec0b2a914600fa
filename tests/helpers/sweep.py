"""A stand-in for `python -m advtf.main` that costs no TensorFlow but keeps the promises of a run directory.

As a script it is that command. `python -m helpers.sweep drive FOLDER` is a driver of a few such runs.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

from advtf.storage import jsonl
from advtf.storage.files import write_json
from advtf.training.directory import TrainingDirectory
from advtf.training.settings import RunOptions, TrainConfig
from launch.common import driver, executors
from launch.common.runs import Run

EPOCHS = 4


class StandIn(Run):
    """A run of the stand-in."""

    def command(self):
        first, _, module, *rest = super().command()
        assert module == "advtf.main"
        return [first, "-m", "helpers.sweep", *rest]


def stand_ins(folder, **acts):
    """Runs in `folder` by name -> what the stand-in does: "train", "fail", "die once", "slow", "hang"."""
    return [StandIn(str(Path(folder, name)), (f"--act={act}",), epochs=EPOCHS) for name, act in acts.items()]


def _train(run, act):
    def stop(number, frame):
        print("SIGTERM: saving a checkpoint, then stopping.", flush=True)
        sys.exit(143)

    with open(run.path.parent / f"{run.path.name}.starts", "a") as file:
        file.write(f"{os.getpid()}\n")
    with run.locked(resume=True):
        if not run.config.exists():
            run.write_config(TrainConfig.of({}), RunOptions())
        signal.signal(signal.SIGTERM, stop)
        for epoch in range(len(jsonl.read(run.metrics)) if run.metrics.exists() else 0, EPOCHS):
            time.sleep({"slow": 0.4, "hang": 60}.get(act, 0.01))
            jsonl.append(run.metrics, {"epoch": epoch + 1})
            if act == "fail" and epoch:
                print("epoch 2\nthe loss is not finite")
                sys.exit(1)
            if act == "die once" and epoch == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        record = {"clean_error": 1.0, "pgd_error": 2.0}
        write_json(run.results, {"results": {"last": record}})


def drive(folder, cluster=None):
    """Carries out four runs, of which two are slow; prints a line when that is done."""
    runs = stand_ins(folder, a="slow", b="train", c="slow", d="train")
    executor = executors.RayTasks(cluster, None, 1, 0) if cluster else executors.LocalProcesses(2, 1)
    try:
        outcomes = driver.carry_out(runs, executor)
    except driver.Interrupted as interrupted:
        driver.end_by(interrupted, "the same command")
    print(json.dumps([outcome.state for outcome in outcomes]))


if __name__ == "__main__":
    if sys.argv[1] == "drive":
        drive(*sys.argv[2:])
    else:
        parser = argparse.ArgumentParser()
        parser.add_argument("--act")
        parser.add_argument("--out_dir")
        parser.add_argument("--resume", action="store_true")
        chosen = parser.parse_args()
        _train(TrainingDirectory(Path(chosen.out_dir)), chosen.act)
