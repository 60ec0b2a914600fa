"""What entries read from the files of their runs. A run that is not finished, or has failed, adds nothing."""

import json
from typing import Any

from advtf.storage import jsonl
from launch.common.runs import Run
from launch.reproduce.entry import Record


def trained(record: Record, row: str, run: Run, export: str = "last") -> None:
    """Adds the clean and the PGD error of a classifier, in percent, and the number of test images."""
    if run.finished():
        found = _content(run)["results"].get(export)
        if found:
            names = ("clean_error", "pgd_error", "examples")
            record.put(row, **{name: found[name] for name in names})


def attacked(record: Record, row: str, run: Run) -> None:
    """Adds the error of every attack of an evaluation in percent, and the number of its images."""
    if run.finished():
        found = _content(run)
        record.put(row, **{name: each["error"] for name, each in found["attacks"].items()})
        record.put(row, attacked_images=found["examples"], evaluated_clean_error=found["clean"]["error"])


def overfitting(record: Record, row: str, run: Run, export: str = "last") -> None:
    """Adds what the epochs after the best one cost of PGD accuracy, in points."""
    if run.finished():
        found = _content(run)["robust_overfitting"]
        if export in found:
            record.put(row, gap=found[export])


def epochs(run: Run) -> list[dict[str, Any]]:
    """Returns the record of every epoch of a finished training; none of another."""
    return jsonl.read(run.files.metrics) if run.finished() else []


def column(rows: list[dict[str, Any]], name: str) -> tuple[list, list]:
    """Returns epochs and values of one name, of the epochs that have it."""
    kept = [row for row in rows if row.get(name) is not None]
    return [row["epoch"] for row in kept], [row[name] for row in kept]


def study(run: Run, name: str) -> dict[str, Any] | None:
    """Returns the result of a study of a finished analysis; None of another."""
    if not run.finished():
        return None
    return json.loads((run.files.path / name / f"{name}.json").read_text(encoding="utf-8"))


def _content(run):
    return json.loads(run.files.results.read_text(encoding="utf-8"))
