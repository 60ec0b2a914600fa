"""Every training objective on one data set at equal settings: accuracy, overfitting, input landscape, time.

    python -m launch.experiments.objectives                       digits, LeNet, three seeds
    python -m launch.experiments.objectives --dataset=mnist --out=runs/objectives-mnist -- --epochs=10
    python -m launch.experiments.objectives --objectives at advlc --adversaries pgd --seeds 0 1

Trains, in one process, each objective against each adversary with each seed; ε is constant and the learning
rate falls twice, as in Li & Spratling 2023. What follows `--` goes to every training. Finished runs are not
repeated, a stopped one is continued. Measured on the test images are the clean, PGD and screen (APGD-CE,
APGD-T) accuracy of the weights that were best against PGD on held-out images, and of the last ones; of the
last ones also IG and HS. Writes `objectives.json` and `objectives.md`: mean ± standard deviation over seeds.

What differs between the trainings: consistency needs two augmentations, so it alone crops and flips (all do
with `-- --augment`); kdsa distils the last standard and the best `at` weights of its seed; `advlc+swa` is the
average of the weights of the `advlc` run. The strengths are those of the paper, which chose them for
CIFAR-10. Some are too strong for digits (gradalign ends in a constant classifier), so
`--strengths igr=0.5 gradalign=0.5` sets others.
"""

import argparse
import contextlib
import gc
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from advtf.errors import UsageError
from advtf.runtime import start
from advtf.settings.commands import exit_on_usage_error
from advtf.settings.fields import number
from advtf.storage import jsonl
from advtf.storage.files import provenance, write_atomically, write_json
from advtf.training.directory import TrainingDirectory
from advtf.training.settings import RunOptions, TrainConfig
from launch.common import arguments
from launch.common.objectives import OBJECTIVES, settings_of

EQUAL = {  # what differs from the presets of a data set
    "digits": {"epochs": 60, "periods": "none", "val_fraction": 0.2},
    "mnist": {"eps": 0.3, "attack_steps": 10, "attack_step_size": "eps/4", "epochs": 20, "lr": 1e-3}
    | {"width": 2, "eval_examples": 1000},
}
COMMON = {"eps_sched": "constant", "lr_sched": "step"}
AVERAGED = {"advlc": {"averaging": "swa"}}  # gives the rows "advlc+swa" with the same trainings
EVALUATION_BATCH = 500
COLUMNS = {  # key -> heading, decimals
    "best.clean": ("clean best", 1),
    "last.clean": ("clean end", 1),
    "best.pgd": ("PGD best", 1),
    "last.pgd": ("PGD end", 1),
    "best.screen": ("screen best", 1),
    "last.screen": ("screen end", 1),
    "gap": ("gap", 1),
    "last.ig": ("IG", 2),
    "last.hs": ("HS", 2),
    "step": ("step", 2),
}
NOTE = (
    "Accuracy in % on {examples} test images, mean ± standard deviation of {seeds} seeds. Best: by PGD on "
    "held-out images; gap: screen accuracy, best − end. IG and HS are those of the last weights; step: "
    "seconds of a training step relative to at with the same adversary."
)


@dataclass(frozen=True)
class Task:
    """One training: an entry of `OBJECTIVES`, an adversary ("none" for standard) and a seed."""

    name: str
    adversary: str
    seed: int

    def __str__(self) -> str:
        return f"{self.name.replace('+', '_')}-{self.adversary}-seed{self.seed}"


class Trainings:
    """Trains and measures in one process: all classifiers are alike, so what measures them is traced once.

    Args:
        given: settings of every training.
        out: folder of the runs.
        strengths: objective -> strength, where it is not the default.
        data_dir: prepared TFDS data.
        hs_examples: number of test images whose input Hessian is computed.
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

        from advtf.data import sets as data
        from advtf.data.arrays import to_unit_float
        from advtf.landscape.inputs import InputMeter
        from advtf.training.run import build_attack, build_classifier

        config = TrainConfig.of(self._given)
        names = ("val_fraction", "image_size", "order", "train_examples")
        wanted = {name: getattr(config, name) for name in names}
        self._data = data.load(config.dataset, data_dir, **wanted)
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

        Its entries are the configuration, the seconds of a step, and for each snapshot its accuracies in
        percent, for those of the last epoch also the measures of the input landscape; or why the training
        failed.

        Raises:
            UsageError: the folder holds a run with other settings.
            TrainingInterrupted: stopped by a signal; the next call continues.
        """
        run, config = TrainingDirectory(self._out / str(task)), self.config(task)
        record = run.path / "comparison.json"
        with run.locked(resume=True):
            if not run.config.exists():
                run.write_config(config, RunOptions())
            _require_same(run, config)
            if not record.exists():
                found = {"config": config.to_json(), "examples": len(self._x)}
                write_json(record, found | self._trained(run, config))
        gc.collect()  # the graphs of a training go with it
        return json.loads(record.read_text())

    def config(self, task: Task) -> TrainConfig:
        """Returns the settings of a task; kdsa's teachers are trained for it if they are not there."""
        own = settings_of(task.name) | AVERAGED.get(task.name, {})
        objective = own["objective"]
        chosen = {**self._given, "adversary": task.adversary, "seed": task.seed}
        if objective in self._strengths:
            chosen["strength"] = self._strengths[objective]
        if objective == "kdsa":
            teachers = Task("standard", "none", task.seed), Task("at", task.adversary, task.seed)
            chosen["teachers"] = ",".join(map(self._exported, teachers, ("last", "best")))
        return TrainConfig.of(chosen | own)

    def _exported(self, task, snapshot):
        from advtf.classifiers.export import export_classifier

        path = self._out / "teachers" / f"{task}-{snapshot}"
        if not path.exists():
            self.result(task)
            self._load(TrainingDirectory(self._out / str(task)), snapshot)
            export_classifier(self._classifier, path, sample=self._x[:8])
        return str(path)

    def _load(self, run, snapshot):
        from advtf.training.callbacks import load_snapshot

        return load_snapshot(run.snapshots / f"{snapshot}.npz", self._classifier)

    def _trained(self, run, config):
        from advtf.training.checks import NonFiniteLoss
        from advtf.training.run import build_trainer, train

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
        from advtf.evaluate import evaluate

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


def _require_same(run: TrainingDirectory, config: TrainConfig) -> None:
    if TrainConfig.from_json(run.read_config()["config"]) != config:
        raise UsageError(
            f"the runs in the folder must have the settings given. Received: {run.path} with others. "
            "Choose another --out."
        )


def values_of(record: Mapping, prefix: str, baseline: float | None) -> dict[str, float]:
    """Returns the numbers of a table's row from one run.

    Args:
        record: of `Trainings.result`.
        prefix: of the snapshots, "" or "swa_".
        baseline: seconds of a step of `at`.
    """
    best, last = (record["snapshots"][prefix + name] for name in ("best", "last"))
    found = {
        f"{when}.{what}": part[what]
        for when, part in (("best", best), ("last", last))
        for what in ("clean", "pgd", "screen")
    }
    found |= {f"last.{what}": last["inputs"][what]["mean"] for what in ("ig", "hs")}
    found["gap"] = best["screen"] - last["screen"]
    return found | ({"step": record["step_seconds"] / baseline} if baseline else {})


def summary(rows: Iterable[Mapping[str, float]]) -> dict[str, dict]:
    """Returns mean and standard deviation (None for one) over the seeds of each number."""
    rows = list(rows)
    known = [key for key in COLUMNS if rows and all(key in row for row in rows)]
    columns = {key: [row[key] for row in rows] for key in known}
    return {
        key: {"mean": statistics.mean(column), "std": statistics.stdev(column) if len(column) > 1 else None}
        for key, column in columns.items()
    }


def markdown(groups: Mapping[str, Mapping[str, dict]], note: str) -> str:
    """Returns a table for each adversary."""
    parts = []
    for adversary, rows in groups.items():
        head = " | ".join(heading for heading, _ in COLUMNS.values())
        lines = [f"| {adversary} | {head} |", "|---" + "|--:" * len(COLUMNS) + "|"]
        for name, row in rows.items():
            cells = (
                _cell(row.get("numbers", {}).get(key), decimals) for key, (_, decimals) in COLUMNS.items()
            )
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
            if row["failed"]:
                lines[-1] += f" {row['failed']} of {row['failed'] + row['seeds']} diverged"
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, note]) + "\n"


def _cell(entry, decimals):
    if entry is None:
        return "–"
    return f"{entry['mean']:.{decimals}f}" + (
        f" ± {entry['std']:.{decimals}f}" if entry["std"] is not None else ""
    )


def collected(results: Mapping, adversaries: list[str], objectives: list[str], seeds: list[int]) -> dict:
    """Returns adversary -> row -> {"seeds", "failed", "numbers"} from the records by task."""
    groups = {adversary: {} for adversary in adversaries}
    for adversary, name in itertools.product(adversaries, objectives):
        against = "none" if name == "standard" else adversary
        found = {seed: results[name, against, seed] for seed in seeds}
        right = {seed: record for seed, record in found.items() if "failed" not in record}
        baselines = {seed: results.get(("at", adversary, seed), {}).get("step_seconds") for seed in seeds}
        averaged = any("swa_last" in record["snapshots"] for record in right.values())
        for prefix in ("", "swa_") if averaged else ("",):
            row = {"seeds": len(right), "failed": len(found) - len(right)}
            rows = [values_of(record, prefix, baselines[seed]) for seed, record in right.items()]
            groups[adversary][name + ("+swa" if prefix else "")] = row | {"numbers": summary(rows)}
    return groups


def values_by_name(pairs: Iterable[str]) -> dict[str, str]:
    """Returns name -> value of ``name=value``, with or without dashes; ``--name`` is ``name=true``."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.removeprefix("--").partition("=")
        found[name] = value if equals else "true"
    return found


def run_all(chosen: argparse.Namespace, given: Mapping) -> dict:
    """Trains and measures everything chosen; returns the records by task."""
    strengths = {name: number(value) for name, value in values_by_name(chosen.strengths).items()}
    trainings = Trainings(given, Path(chosen.out), strengths, chosen.data_dir, chosen.hs_examples)

    from advtf.training.checkpoint import TrainingInterrupted

    tasks = dict.fromkeys(  # standard is trained once, not against each adversary
        Task(name, "none" if name == "standard" else adversary, seed)
        for seed, adversary, name in itertools.product(chosen.seeds, chosen.adversaries, chosen.objectives)
    )
    results, began = {}, time.monotonic()
    for done, task in enumerate(tasks):
        try:
            results[task.name, task.adversary, task.seed] = trainings.result(task)
        except TrainingInterrupted as stopped:
            print(f"{stopped}. The same command continues.")
            sys.exit(128 + stopped.signal)
        minutes = (time.monotonic() - began) / 60
        print(f"{done + 1:>3} of {len(tasks)}  {task!s:<32}{minutes:6.1f} min", flush=True)
    return results


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the options."""
    made = arguments.parser(__doc__)
    made.add_argument("--data_dir", help="folder of prepared data sets")
    made.add_argument("--dataset", default="digits")
    made.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=list(OBJECTIVES))
    made.add_argument("--adversaries", nargs="+", default=["fgsm_n", "pgd"], choices=["fgsm_n", "pgd"])
    made.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    made.add_argument("--strengths", nargs="+", default=[], help="name=value, instead of the paper's")
    made.add_argument("--hs_examples", type=int, default=100, help="test images of HS")
    made.add_argument("--out", default="runs/objectives")
    return made


def main() -> None:
    chosen = arguments.parse(parser())
    given = (
        {"dataset": chosen.dataset} | COMMON | EQUAL.get(chosen.dataset, {}) | values_by_name(chosen.flags)
    )
    results = run_all(chosen, given)
    groups = collected(results, chosen.adversaries, chosen.objectives, chosen.seeds)
    out = Path(chosen.out)
    records = [{"task": task, **record} for task, record in results.items()]
    write_json(out / "objectives.json", provenance() | {"given": given, "rows": groups, "runs": records})
    counts = {"examples": records[0]["examples"], "seeds": len(chosen.seeds)}
    table = markdown(groups, NOTE.format(**counts))
    write_atomically(out / "objectives.md", lambda file: file.write(table.encode()))
    print(f"\n{table}")


if __name__ == "__main__":
    with exit_on_usage_error():
        main()
