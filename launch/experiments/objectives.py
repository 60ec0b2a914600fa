"""Every training objective on one data set at equal settings: accuracy, overfitting, input landscape, time.

    python launch/compare_objectives.py                       digits, LeNet, three seeds
    python launch/compare_objectives.py --dataset=mnist --out=runs/objectives-mnist -- --steps_per_epoch=150
    python launch/compare_objectives.py --objectives at advlc --adversaries pgd --seeds 0 1

Trains, in one process, each objective against each adversary with each seed; ε is constant and the rate falls
twice, as in Li & Spratling 2023. What follows `--` goes to every training. Finished runs are not repeated, a
stopped one continues. Measured on the test images: clean, PGD and screen (APGD-CE, APGD-T) accuracy of the
weights that were best against PGD on held-out images, and of the last ones; of these also IG and HS. Writes
`objectives.json` and `objectives.md`: mean ± standard deviation over the seeds.

What differs between the trainings: consistency needs two augmentations, so it alone crops and flips (all do
with `-- --augment`); kdsa distils the last standard and the best `at` weights of its seed; `advlc+swa` is the
average of the weights of the `advlc` run. Strengths are the paper's, which chose them for CIFAR-10. Some are
too strong for digits (gradalign ends in a constant classifier), so `--strengths igr=0.5 gradalign=0.5` sets
others.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from advtf.errors import UsageError
from advtf.runtime import import_tensorflow
from advtf.settings.fields import number
from advtf.storage.files import write_atomically, write_json
from advtf.storage.provenance import provenance

EQUAL = {  # what differs from the presets of a data set
    "digits": {"epochs": 60, "periods": "none", "val_fraction": 0.2},
    "mnist": {
        "eps": 0.3,
        "attack_steps": 10,
        "attack_step_size": "eps/4",
        "epochs": 20,
        "lr": 1e-3,
        "width": 2,
    }
    | {"eval_examples": 1000},
}
COMMON = {"eps_sched": "constant", "lr_sched": "step"}
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


def values_of(record: Mapping, prefix: str, baseline: float | None) -> dict[str, float]:
    """Returns the numbers of a table's row from one run.

    Args:
        record: of `objective_runs.Laboratory.result`.
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
            cells = (_cell(row.get("numbers", {}).get(key), places) for key, (_, places) in COLUMNS.items())
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
            if row["failed"]:
                lines[-1] += f" {row['failed']} of {row['failed'] + row['seeds']} diverged"
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, note]) + "\n"


def _cell(entry, places):
    if entry is None:
        return "–"
    return f"{entry['mean']:.{places}f}" + (
        f" ± {entry['std']:.{places}f}" if entry["std"] is not None else ""
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


def settings_of(pairs: Iterable[str]) -> dict[str, str]:
    """Returns name -> value of ``name=value``, with or without dashes; ``--name`` is ``name=true``."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.removeprefix("--").partition("=")
        found[name] = value if equals else "true"
    return found


def run_all(arguments: argparse.Namespace, given: Mapping) -> dict:
    """Trains and measures everything asked for; returns the records by task."""
    from objective_runs import Laboratory, Task

    from advtf.training.checkpoint import TrainingInterrupted

    strengths = {name: number(value) for name, value in settings_of(arguments.strengths).items()}
    laboratory = Laboratory(given, Path(arguments.out), strengths, arguments.data_dir, arguments.hs_examples)
    tasks = dict.fromkeys(  # standard is trained once, not against each adversary
        Task(name, "none" if name == "standard" else adversary, seed)
        for seed, adversary, name in itertools.product(
            arguments.seeds, arguments.adversaries, arguments.objectives
        )
    )
    results, began = {}, time.monotonic()
    for done, task in enumerate(tasks):
        try:
            results[task.name, task.adversary, task.seed] = laboratory.result(task)
        except TrainingInterrupted as stopped:
            print(f"{stopped}. The same command continues.")
            sys.exit(128 + stopped.signal)
        minutes = (time.monotonic() - began) / 60
        print(f"{done + 1:>3} of {len(tasks)}  {task!s:<32}{minutes:6.1f} min", flush=True)
    return results


def main():
    own, training = sys.argv[1:], []
    if "--" in own:
        own, training = own[: own.index("--")], own[own.index("--") + 1 :]
    import_tensorflow()
    from objective_runs import OBJECTIVES

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data_dir", help="prepared TFDS data")
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=list(OBJECTIVES))
    parser.add_argument("--adversaries", nargs="+", default=["fgsm_n", "pgd"], choices=["fgsm_n", "pgd"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--strengths", nargs="+", default=[], help="name=value, instead of the paper's")
    parser.add_argument("--hs_examples", type=int, default=100, help="test images of HS")
    parser.add_argument("--out", default="runs/objectives")
    arguments = parser.parse_args(own)
    given = {"dataset": arguments.dataset} | COMMON | EQUAL.get(arguments.dataset, {}) | settings_of(training)
    try:
        results = run_all(arguments, given)
    except UsageError as error:
        sys.exit(f"error: {error}")
    groups = collected(results, arguments.adversaries, arguments.objectives, arguments.seeds)
    out = Path(arguments.out)
    records = [{"task": task, **record} for task, record in results.items()]
    write_json(out / "objectives.json", provenance() | {"given": given, "rows": groups, "runs": records})
    counts = {"examples": records[0]["examples"], "seeds": len(arguments.seeds)}
    table = markdown(groups, NOTE.format(**counts))
    write_atomically(out / "objectives.md", lambda file: file.write(table.encode()))
    print(f"\n{table}")


if __name__ == "__main__":
    main()
