"""Runs studies one after another; each that is finished is on disk, whatever becomes of the next."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from advtf import runtime
from advtf.attacks.pgd import pgd
from advtf.errors import UsageError
from advtf.storage.files import write_json
from advtf.storage.provenance import provenance
from advtf.storage.run_directory import RunDirectory
from advtf.studies import STUDIES
from advtf.studies.context import StudyContext
from advtf.studies.run import Material
from advtf.studies.settings import AnalyzeSettings

STATE, FINISHED = (
    "state",
    "finished.json",
)  # in a study's folder: what it resumes from; written when it is done


@dataclass(frozen=True)
class Outcome:
    """Of some studies.

    Attributes:
        files: name of a study that is finished -> what it wrote, results first.
        failures: name of one that is not -> why.
    """

    files: dict[str, list[Path]]
    failures: dict[str, UsageError]


def run_studies(
    names: Sequence[str],
    settings: AnalyzeSettings,
    material: Material,
    folder: Path,
    say: Callable[[str], None],
) -> Outcome:
    """Runs the studies that are not finished, in this order; one that fails does not stop the next.

    Args:
        names: of `advtf.studies.STUDIES`.
        settings: complete.
        folder: holds one folder of results per study.
        say: called with each line for the user.
    """
    outcome = Outcome({}, {})
    for name in names:
        place = folder / name
        files = finished_files(place)
        if files is None:
            say(f"\n{name}")
            try:
                files = _run(name, _context(settings, material, place, say))
            except UsageError as error:
                say(f"not done: {error}")
                outcome.failures[name] = error
                continue
        else:
            say(f"\n{name}: done before")
        outcome.files[name] = files
    return outcome


def finished_files(place: Path) -> list[Path] | None:
    """Returns what the study in this folder wrote, or None if it is not finished or files are gone."""
    try:
        names = json.loads((place / FINISHED).read_text())["files"]
        files = [place / name for name in names]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return files if all(file.exists() for file in files) else None


def _run(name, context):
    began = time.monotonic()
    context.folder.mkdir(exist_ok=True)
    files = [Path(file) for file in STUDIES[name].run(context)]
    seconds = time.monotonic() - began
    names = [str(file.relative_to(context.folder)) for file in files]
    write_json(context.folder / FINISHED, {"files": names, "seconds": round(seconds, 3)})
    shutil.rmtree(context.folder / STATE, ignore_errors=True)
    context.say(f"{name} took {seconds:.1f} s")
    return files


def _context(settings, material, place, say):
    return StudyContext(
        settings=settings,
        classifiers=material.classifiers,
        x=material.x,
        y=material.y,
        x_test=material.x_test,
        y_test=material.y_test,
        num_classes=material.num_classes,
        attack=pgd(settings.norm, settings.attack_steps, settings.relative_step, settings.random_start),
        epsilon=settings.eps,
        folder=place,
        jit_compile=runtime.compiles(settings.jit),
        say=say,
        source=material.source,
    )


def finish(run: RunDirectory, settings: AnalyzeSettings, material: Material) -> bool:
    """Writes analysis.json, the files of each study, once all are finished; returns whether they are."""
    files = {name: finished_files(run.path / name) for name in settings.study}
    if None in files.values():
        return False
    listed = {name: [str(file.relative_to(run.path)) for file in found] for name, found in files.items()}
    write_json(run.results, provenance() | dict(material.source) | {"studies": listed})
    return True
