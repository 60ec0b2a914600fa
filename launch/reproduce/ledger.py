"""The results of the ledger: a small JSON file for each entry and scale, and the seconds of the runs.

A file holds, by seed, the values and curves of the entry, its runs with their commands and seconds, and the
versions. Verdicts are not stored: they are functions of the values, so that a better verdict needs no new
runs.
"""

import dataclasses
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advtf.errors import UsageError
from advtf.storage.files import versions, write_json
from launch.common.runs import Run
from launch.reproduce.entry import Entry, Record
from launch.reproduce.plan import Plan, Planned
from launch.reproduce.verdicts import Measured

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Stored:
    """What is known of an entry at a scale: seed -> its record, as `measured_record` makes it."""

    seeds: Mapping[int, Mapping[str, Any]]

    @property
    def measured(self) -> Measured:
        """The values by seed, for the verdicts."""
        return Measured({seed: record["values"] for seed, record in self.seeds.items()})


def file_of(folder: Path, scale: str, entry: Entry) -> Path:
    """Returns where the results of an entry are kept."""
    return folder / scale / f"{entry.key}.json"


def read(folder: Path, scale: str, entry: Entry) -> Stored:
    """Returns the results of an entry; without a file there are none.

    Raises:
        UsageError: the file is damaged, or of another version.
    """
    path = file_of(folder, scale, entry)
    if not path.exists():
        return Stored({})
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        return Stored({int(seed): dict(record) for seed, record in content["seeds"].items()})
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} must be results of this version of the ledger. Received: {error!r}. "
            "Remove it, and the command that measures the entry writes it anew."
        ) from error


def update(folder: Path, plan: Plan, entry: Entry, seed: int, record: Mapping[str, Any]) -> Path:
    """Writes the record of a seed; those of other seeds stay if they were measured with the same settings."""
    path = file_of(folder, plan.scale.name, entry)
    found = dict(read(folder, plan.scale.name, entry).seeds)
    kept = {other: each for other, each in found.items() if is_current(plan, entry, other, each)}
    kept[seed] = dict(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, "paper": entry.paper, "entry": entry.name, "scale": plan.scale.name}
    write_json(path, content | {"seeds": {str(each): kept[each] for each in sorted(kept)}})
    return path


def is_current(plan: Plan, entry: Entry, seed: int, record: Mapping[str, Any]) -> bool:
    """Tells whether a record was measured with the settings that the scale has now."""
    names = {planned.name for planned in plan.of(entry, seed).values()}
    return {run["name"] for run in record["runs"]} == names


def measured_record(
    plan: Plan, entry: Entry, planned: Mapping[str, Planned], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Measures an entry with one seed, from the files of those of its runs that are finished.

    Args:
        plan: of the scale.
        entry: the entry.
        planned: its runs with that seed.
        seconds: of each run that is known.

    Returns:
        JSON values: "values", "curves", "runs" with name, command, seconds and whether it is finished,
        "versions".
    """
    record = Record()
    runs = {name: plan.run(one) for name, one in planned.items()}
    entry.measure(runs, record)
    listed = {
        run.name: {
            "name": run.name,
            "command": command_of(plan, run),
            "seconds": round(seconds[run.name], 1) if run.name in seconds else None,
            "finished": run.finished(),
        }
        for run in runs.values()
    }
    return {
        "values": record.values,
        "curves": record.curves,
        "runs": list(listed.values()),
        "versions": versions(),
    }


def command_of(plan: Plan, run: Run) -> str:
    """Returns the command of a run as a reader repeats it, with the paths of the default folder.

    The commands of an entry name the exports of each other, so that they can be given one after another.
    """
    folder = f"runs/reproduce-{plan.scale.name}"
    words = [f"--out_dir={run.path}", *(word for word in run.flags if not word.startswith("--data_dir="))]
    words = [word.replace(f"{plan.out_dir}/", f"{folder}/") for word in words]
    return f"python -m advtf.{run.kind.command} {shlex.join(words)}"


class Seconds:
    """The seconds that runs have taken, over all attempts of all starts of the command.

    Args:
        folder: of the runs.
    """

    def __init__(self, folder: Path):
        self._path = folder / "seconds.json"

    def add(self, name: str, seconds: float) -> None:
        """Notes what a run took since the command was started."""
        if seconds:
            found = self.by_run()
            write_json(self._path, found | {name: round(found.get(name, 0.0) + seconds, 1)})

    def by_run(self) -> dict[str, float]:
        """Returns run -> seconds."""
        return json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
