"""Trainings of all objectives in one process, and what is measured of each; not a script."""

import contextlib
import gc
import json
import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from advtf.classifiers.export import export_classifier
from advtf.data import sets as data
from advtf.data.augmentation import to_unit_float
from advtf.errors import UsageError
from advtf.evaluate import evaluate
from advtf.landscape.inputs import InputMeter
from advtf.runtime import start
from advtf.storage import jsonl, rundir
from advtf.storage.files import write_json
from advtf.storage.runfiles import RunDirectory
from advtf.training.callbacks import NonFiniteLoss, load_snapshot
from advtf.training.run import build_attack, build_classifier, build_trainer, train
from advtf.training.settings import RunOptions, TrainConfig, from_json, resolve, to_json

OBJECTIVES = {  # by name in the table, with the settings that only this one has
    "standard": {},
    "at": {},
    "at_minus_st": {},
    "igr": {},
    "cure": {},
    "gradalign": {},
    "logitalign": {},
    "consistency": {"augment": True},
    "kdsa": {},
    "advlc": {"averaging": "swa"},
    "trades": {},
    "mart": {},
    "at+awp": {"awp": 0.005},
}
EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Task:
    """One training: an entry of `OBJECTIVES`, an adversary ("none" for standard) and a seed."""

    name: str
    adversary: str
    seed: int

    def __str__(self) -> str:
        return f"{self.name.replace('+', '_')}-{self.adversary}-seed{self.seed}"


class Laboratory:
    """Trains and measures. What measuring traces is traced once, as all classifiers are alike.

    Args:
        given: settings of every training.
        out: folder of the runs.
        strengths: objective -> strength, where it is not the default.
        data_dir: prepared TFDS data.
        hs_examples: test images whose input Hessian is looked at.
    """

    def __init__(
        self,
        given: Mapping,
        out: Path,
        strengths: Mapping[str, float],
        data_dir: str | None = None,
        hs_examples: int = 100,
    ):
        self._given, self._out, self._strengths, self._runtime = dict(given), out, strengths, start()
        config = resolve(self._given)
        self._data = data.load(config.dataset, data_dir, config.val_fraction, config.image_size)
        test = self._data.test.select(slice(config.eval_examples))
        self._x, self._y = to_unit_float(test.images).numpy(), test.labels
        self._classifier = build_classifier(config, self._data)
        self._meter = InputMeter(
            lambda x: self._classifier(x, training=False),
            self._data.input_shape,
            config.eps,
            attack=build_attack(config),
            norm=config.norm,
            hs_examples=hs_examples,
        )

    def result(self, task: Task) -> dict:
        """Returns the record of a task: from its folder, or after training and measuring now.

        Its entries: the configuration, seconds of a step, and by snapshot the accuracies in percent, of the
        last epoch's also the input measures; or why the training failed.

        Raises:
            UsageError: the folder holds a run with other settings.
            TrainingInterrupted: stopped by a signal; the next call continues.
        """
        run, config = RunDirectory(self._out / str(task)), self.config(task)
        record = run.path / "comparison.json"
        with rundir.locked(run, resume=True):
            if not run.config.exists():
                run.write_config(config, RunOptions())
            _require_same(run, config)
            if not record.exists():
                found = {"config": to_json(config), "examples": len(self._x)}
                write_json(record, found | self._trained(run, config))
        gc.collect()  # the graphs of a training go with it
        return json.loads(record.read_text())

    def config(self, task: Task) -> TrainConfig:
        """Returns the settings of a task; kdsa's teachers are trained for it if they are not there."""
        objective = task.name.partition("+")[0]
        chosen = {**self._given, "objective": objective, "adversary": task.adversary, "seed": task.seed}
        if objective in self._strengths:
            chosen["strength"] = self._strengths[objective]
        if objective == "kdsa":
            teachers = Task("standard", "none", task.seed), Task("at", task.adversary, task.seed)
            chosen["teachers"] = ",".join(map(self._exported, teachers, ("last", "best")))
        return resolve(chosen | OBJECTIVES[task.name])

    def _exported(self, task, snapshot):
        path = self._out / "teachers" / f"{task}-{snapshot}"
        if not path.exists():
            self.result(task)
            self._load(RunDirectory(self._out / str(task)), snapshot)
            export_classifier(self._classifier, path, sample=self._x[:8])
        return str(path)

    def _load(self, run, snapshot):
        return load_snapshot(run.snapshots / f"{snapshot}.npz", self._classifier)

    def _trained(self, run, config):
        trainer = build_trainer(config, self._data, self._runtime)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            try:
                train(trainer, config, RunOptions(), run, self._data)
            except NonFiniteLoss as error:
                return {"failed": str(error)}
        speeds = [epoch["images_per_second"] for epoch in jsonl.read(run.metrics)]
        names = ["best", "last"]
        names += [f"{config.averaging}_{name}" for name in names] if config.averaging != "none" else []
        return {
            "step_seconds": config.batch_size / statistics.median(speeds),
            "snapshots": {name: self._measured(run, config, name) for name in names},
        }

    def _measured(self, run, config, snapshot):
        epoch = self._load(run, snapshot)["epoch"]
        errors = evaluate(
            self._classifier,
            self._x,
            self._y,
            ["pgd", "screen"],
            config.eps,
            config.norm,
            checks=False,
            pgd_steps=config.attack_steps,
            pgd_step_size=config.attack_step_size,
            batch_size=EVALUATION_BATCH,
        )
        found = {name: 100 - result.error for name, result in errors.attacks.items()}
        found |= {"epoch": epoch, "clean": 100 - errors.clean_error}
        return found | ({"inputs": self._meter(self._x, self._y).summary()} if "last" in snapshot else {})


def _require_same(run: RunDirectory, config: TrainConfig) -> None:
    if from_json(TrainConfig, run.read_config()["config"]) != config:
        raise UsageError(
            f"the runs in the folder must have the settings given. Received: {run.path} with others. "
            "Choose another --out."
        )
