"""What a report is made of and where it goes: the flags, and the checks before anything is read whole.

No NumPy and no Matplotlib beyond what the directories of runs need, so that a wrong flag is answered at once.
"""

import dataclasses
from pathlib import Path

from advtf.classifiers.manifest import read_manifest
from advtf.errors import UsageError, nearest
from advtf.evaluation.report import EvaluationDirectory
from advtf.settings.fields import Settings, setting, text, texts
from advtf.storage.files import require_writable
from advtf.storage.report_files import MODEL_CARD, REPORT, is_report
from advtf.storage.run_directory import RunDirectory
from advtf.studies.run import AnalysisDirectory
from advtf.training.directory import TrainingDirectory

DIRECTORIES = (TrainingDirectory, EvaluationDirectory, AnalysisDirectory)
REQUIRED = "run must be the folder of a training, an evaluation, an analysis or an export"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions(Settings):
    """What the page is about, and where it goes."""

    run: tuple[str, ...] = setting(
        "report", texts("folders"), "trainings, evaluations, analyses and exports, with commas between", ()
    )
    out: str | None = setting(
        "report",
        text(),
        f"page to write; default {REPORT} in the folder, {MODEL_CARD} in that of an export",
        None,
    )

    def check(self) -> None:
        """Checks that there is something to report."""
        if not self.run:
            raise UsageError("run must be given. Received: no --run. Name the folder of a run or an export.")


@dataclasses.dataclass(frozen=True)
class Export:
    """The folder of an exported classifier."""

    path: Path


def plan(options: ReportOptions) -> tuple[list[RunDirectory | Export], Path]:
    """Decides what the page is about and where it goes, without writing anything.

    Raises:
        UsageError: a folder is not one of those that a page can be about, or the page cannot be written.
    """
    folders = [recognised(path) for path in options.run]
    return folders, _choose_page(options.out, folders)


def recognised(path: str) -> RunDirectory | Export:
    """Returns what a folder holds.

    Args:
        path: of the folder.

    Raises:
        UsageError: no training, evaluation, analysis or export.
    """
    folder = Path(path)
    try:
        names = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        beside = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        hint = nearest(folder.name, beside)
        raise UsageError(f"{REQUIRED}. Received: run={path} ({error.strerror}).{hint}") from error
    if names & {"saved_model.pb", "saved_model.pbtxt"}:
        if read_manifest(folder) is None:
            raise UsageError(
                f"{REQUIRED} of advtf. Received: run={path}, a SavedModel without a manifest of advtf. "
                "Evaluate it with advtf.evaluate, and report the evaluation."
            )
        return Export(folder)
    kind = RunDirectory(folder).found()
    for directory in DIRECTORIES:
        if directory.kind == kind:
            return directory(folder)
    raise UsageError(f"{REQUIRED}. Received: run={path}, {_instead(folder, names)}")


def _instead(folder, names):
    if "config.json" in names:
        return "whose config.json is damaged or of another program. Restore it from a copy."
    if "sweep.json" in names:
        return "which is a sweep. Give the folders of its runs, with commas between."
    within = sorted(path.parent for path in folder.glob("*/config.json"))
    exports = sorted(path.parent for path in folder.glob("*/saved_model.pb"))
    found = ", ".join(path.name for path in [*within, *exports][:8])
    return f"which holds {found}. Give one or more of these." if found else "which holds none of them."


def _choose_page(out, folders):
    if out is None:
        first = folders[0]
        if len(folders) > 1 and not isinstance(first, Export):
            raise UsageError(
                f"out must be given for several folders. Received: {len(folders)} in run, and no --out. "
                "Name the page, as in --out=comparison.html."
            )
        page = first.path / (MODEL_CARD if isinstance(first, Export) else REPORT)
    else:
        page = Path(out)
    if page.suffix != ".html":
        raise UsageError(f"out must end in .html. Received: out={page}.")
    if (page.exists() or page.is_symlink()) and not is_report(page):
        raise UsageError(
            f"out must be free or an earlier report. Received: out={page}, which is something else. "
            "Choose another --out."
        )
    if not page.parent.exists():
        raise UsageError(f"out must be in a folder that exists. Received: out={page}.")
    require_writable(page.parent, "--out")
    return page
