"""What entries read from the files of their runs. A run that is not finished, or has failed, adds nothing.

A file that is damaged is a `UsageError` that names the file, its run, and what to remove.
"""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from advtf.errors import UsageError, first_line
from advtf.storage import jsonl
from launch.common.runs import Run
from launch.reproduce.entry import Record
from launch.reproduce.verdicts import seeds_interval

CURVE_POINTS = 50


def trained(record: Record, row: str, run: Run, export: str = "last") -> None:
    """Adds the clean and the PGD error of a classifier, in percent, and the number of test images."""
    if run.finished():
        found = run.files.read_results()["results"].get(export)
        if found:
            names = ("clean_error", "pgd_error", "examples")
            record.put(row, **{name: found[name] for name in names})


def attacked(record: Record, row: str, run: Run) -> None:
    """Adds the error of every attack of an evaluation in percent, and the number of its images."""
    if run.finished():
        found = run.files.read_results()
        record.put(row, **{name: each["error"] for name, each in found["attacks"].items()})
        record.put(row, attacked_images=found["examples"], evaluated_clean_error=found["clean"]["error"])


def overfitting(record: Record, row: str, run: Run, export: str = "last") -> None:
    """Adds what the epochs after the best one cost of PGD accuracy, in points."""
    if run.finished():
        found = run.files.read_results()["robust_overfitting"]
        if export in found:
            record.put(row, gap=found[export])


def epochs(run: Run) -> list[dict[str, Any]]:
    """Returns the record of every epoch of a finished training; none of another."""
    if not run.finished():
        return []
    return jsonl.read(run.files.metrics, _remedy(run))


def column(rows: list[dict[str, Any]], name: str) -> tuple[list, list]:
    """Returns epochs and values of one name, of the epochs that have it."""
    kept = [row for row in rows if row.get(name) is not None]
    return [row["epoch"] for row in kept], [row[name] for row in kept]


def study(run: Run, name: str) -> dict[str, Any] | None:
    """Returns the result of a study of a finished analysis; None of another."""
    if not run.finished():
        return None
    return _json(run, run.files.path / name / f"{name}.json")


def arrays(run: Run, name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a study of a finished analysis."""
    path = run.files.path / name / f"{name}.npz"
    with whole(run, path), np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def around_images(record: Record, row: str, run: Run, number: int = 0) -> None:
    """Adds what the study ``input`` has measured of one classifier, with standard errors ``<name>_se``.

    The columns are ig, hs, av and effectiveness with the split, such as "ig_test"; and of the adversarial
    variance and the adversarial loss the difference of the test less the training images, "av_gap" and
    "adv_gap".

    Args:
        record: of the entry.
        row: of its table.
        run: the analysis.
        number: of the classifier in it.
    """
    if not run.finished():
        return
    found, means = arrays(run, "input"), {}
    for split in found["splits"].tolist():
        samples = {name: found[f"{split}_{name}"][number] for name in ("ig", "hs", "av", "effectiveness")}
        samples["adv"] = found[f"{split}_loss"][number] + samples["av"]
        for name, values in samples.items():
            known = values[np.isfinite(values)]
            if len(known) > 1:
                mean, error = float(known.mean()), float(known.std(ddof=1) / math.sqrt(len(known)))
                means[name, split] = mean, error
                if name != "adv":
                    record.put(row, **{f"{name}_{split}": mean, f"{name}_{split}_se": error})
    for name in ("av", "adv"):
        if (name, "train") in means and (name, "test") in means:
            (train, of_train), (test, of_test) = means[name, "train"], means[name, "test"]
            record.put(row, **{f"{name}_gap": test - train, f"{name}_gap_se": math.hypot(of_train, of_test)})


def updates(run: Run) -> dict[str, dict[str, Any]] | None:
    """Returns what was logged of the first and of the last updates of a finished training; else None.

    Returns:
        Under "first" and "last" the mean "gradient_norm", the "distance" after the last of them, and a
        curve of "steps" and "norms", each norm a mean over a fiftieth of the updates.
    """
    from advtf.figures.dynamics import read_dynamics, windows

    if not (run.finished() and run.files.dynamics.exists()):
        return None
    with whole(run, run.files.dynamics):
        log = read_dynamics(run.files.dynamics)
    found = {}
    for window, chosen in zip(("first", "last"), windows(log), strict=True):
        norms, steps = log["gradient_norm"][chosen], log["step"][chosen]
        parts = np.array_split(np.arange(len(norms)), min(CURVE_POINTS, len(norms)))
        found[window] = {
            "gradient_norm": float(norms.mean()),
            "distance": float(log["distance"][chosen][-1]),
            "steps": [float(steps[part].mean()) for part in parts],
            "norms": [float(norms[part].mean()) for part in parts],
        }
    return found


def with_interval(record: Record, row: str, name: str, samples: np.ndarray) -> None:
    """Adds the mean of several samples within a run, and the ends of its interval."""
    record.put(row, **{name: float(np.mean(samples))})
    interval = seeds_interval(samples)
    if interval:
        record.put(row, **{f"{name}_low": interval.low, f"{name}_high": interval.high})


@contextlib.contextmanager
def whole(run: Run, path: Path) -> Iterator[None]:
    """Turns whatever goes wrong while a file of a run is read into a `UsageError` that says what to do."""
    try:
        yield
    except Exception as error:  # damage shows as almost any exception of zipfile, zlib, json and NumPy
        reason = first_line(error.__cause__ or error).rstrip(".")
        raise UsageError(
            f"{path} must be what the run has written. Received: damage ({reason}). {_remedy(run)}"
        ) from error


def _remedy(run):
    folders = [run.path, *(word.partition("=")[2] for word in run.flags if word.startswith("--export_dir="))]
    return f"Remove {' and '.join(folders)}, and the same command repeats the run."


def _json(run, path):
    with whole(run, path):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
        return found
