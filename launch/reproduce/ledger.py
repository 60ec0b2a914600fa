"""The results of the ledger: a small JSON file for each entry and scale, and notes about the runs.

A file holds, by seed, the values and curves of the entry, its runs with their commands, seconds and
threads, and the versions. Verdicts are not stored: they are functions of the values, so that a better verdict
needs no new runs.
"""

import dataclasses
import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from advtf.errors import UsageError
from advtf.storage.files import versions, write_json
from launch.common.runs import Run
from launch.reproduce.entry import Entry, Record
from launch.reproduce.plan import Plan, Planned
from launch.reproduce.verdicts import Measured

FORMAT = 1
PARTS = ("values", "curves", "runs", "versions")  # of the record of a seed


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
        seeds = {int(seed): dict(record) for seed, record in content["seeds"].items()}
        missing = sorted({name for record in seeds.values() for name in PARTS if name not in record})
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
        return Stored(seeds)
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
    plan: Plan, entry: Entry, planned: Mapping[str, Planned], notes: "Notes"
) -> dict[str, Any]:
    """Measures an entry with one seed, from the files of those of its runs that are finished.

    Args:
        plan: of the scale.
        entry: the entry.
        planned: its runs with that seed.
        notes: of the driver about the runs.

    Returns:
        JSON values: "values", "curves", "runs" with name, command, seconds, threads and whether it is
        finished, "versions".

    Raises:
        UsageError: a file of a run is damaged.
    """
    seconds = notes.seconds()
    record = Record()
    runs = {name: plan.run(one) for name, one in planned.items()}
    entry.measure(runs, record)
    listed = {
        run.name: {
            "name": run.name,
            "command": command_of(plan, run),
            "seconds": round(seconds[run.name], 1) if run.name in seconds else None,
            "threads": notes.threads(run),
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


class Notes:
    """What the driver notes of the runs beside their directories: how long they took, with how many threads.

    The files are seconds.json, run -> seconds over all attempts of all starts of the command, and
    threads.json, run -> the numbers of threads that it was started or continued with.

    Args:
        folder: of the runs.

    Raises:
        UsageError: a file is damaged.
    """

    def __init__(self, folder: Path):
        self._paths = {name: folder / f"{name}.json" for name in ("seconds", "threads")}
        self._known = {name: _noted(path) for name, path in self._paths.items()}

    def add_seconds(self, name: str, seconds: float) -> None:
        """Notes what a run took since the command was started."""
        if seconds:
            known = self._known["seconds"]
            self._note("seconds", {name: round(known.get(name, 0.0) + seconds, 1)})

    def seconds(self) -> dict[str, float]:
        """Returns run -> seconds."""
        return self._known["seconds"]

    def add_threads(self, runs: Iterable[Run], threads: int) -> None:
        """Notes the threads of the runs that the driver is about to start or to continue.

        One that has begun keeps the number of its beginning beside.
        """
        told = {}
        for run in runs:
            before = self.threads(run) if run.files.state() == "unfinished" else []
            told[run.name] = sorted({*before, threads})
        if told:
            self._note("threads", told)

    def threads(self, run: Run) -> list[int]:
        """Returns with how many threads a run was made, several numbers if it was continued with another one.

        Of a run that an earlier version of the driver has started there is no note. Of a training the number
        is in config.json, too; of others it is not known, and nothing is returned.
        """
        noted = self._known["threads"].get(run.name)
        if noted is None and run.files.state() in ("finished", "unfinished"):
            recorded = run.files.read_config().get("threads")
            noted = [recorded["intra_op"]] if isinstance(recorded, dict) and "intra_op" in recorded else []
        return noted or []

    def _note(self, name, told):
        self._known[name] |= told
        write_json(self._paths[name], self._known[name])


def _noted(path):
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
        return found
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} must be what launch.reproduce has noted of its runs. Received: {error}. Remove it; what "
            "it tells of runs that are finished is lost."
        ) from error
