"""Writes one page about one folder or several; see `advtf.reports`."""

import functools
from collections.abc import Sequence
from pathlib import Path

from advtf.classifiers.manifest import MANIFEST
from advtf.errors import UsageError, quantity
from advtf.evaluation.report import EvaluationDirectory
from advtf.figures.training import compare_runs
from advtf.reports import analysis, evaluation, export, training
from advtf.reports.chapter import Chapter, Row
from advtf.reports.html import Html, element, join, notice, number, table
from advtf.reports.page import render
from advtf.reports.pictures import Pictures
from advtf.reports.settings import Export
from advtf.storage import jsonl
from advtf.storage.files import write_atomically
from advtf.storage.run_directory import RunDirectory
from advtf.training.directory import TrainingDirectory

CHAPTERS = {"training": training.chapter, "evaluation": evaluation.chapter, "analysis": analysis.chapter}


def write(folders: Sequence[RunDirectory | Export], page: Path) -> list[str]:
    """Writes one page about folders, from their files alone.

    Args:
        folders: trainings, evaluations, analyses and exports, in the order of the page.
        page: HTML file to write.

    Returns:
        What could not be read, one line each; the page says it, too.

    Raises:
        DiskFull: there is no room for the page.
    """
    pictures = Pictures()
    evaluations = [folder for folder in folders if isinstance(folder, EvaluationDirectory)]
    chapters = [_chapter(folder, pictures, evaluations) for folder in folders]
    text = _of_one(chapters[0]) if len(chapters) == 1 else _of_several(chapters, folders, pictures)
    write_atomically(page, lambda file: file.write(text.encode()))
    return [problem for chapter in chapters for problem in chapter.problems]


def _chapter(folder, pictures, evaluations) -> Chapter:
    """Returns the chapter of a folder, or a notice alone where config.json or the manifest is damaged."""
    if isinstance(folder, Export):
        kind, source = "model card", folder.path / MANIFEST
        make = functools.partial(export.chapter, folder.path, pictures, evaluations)
    else:
        kind, source = folder.kind, folder.config
        make = functools.partial(CHAPTERS[kind], folder, pictures)
    made = []
    bare = Chapter(kind, folder.path, folder.path.resolve().name, rows=[Row("", remark="damaged")])
    damage = bare.attempt(lambda: made.append(make()), source)
    bare.parts += [("Damaged", damage)] if damage else []
    return made[0] if made else bare


def _of_one(chapter: Chapter) -> str:
    body, contents = _body(chapter, "h2", "part")
    return render(title=chapter.name, kind=chapter.kind, lead=chapter.lead, contents=contents, main=body)


def _of_several(chapters, folders, pictures) -> str:
    first = chapters[0]
    is_card = first.kind == "model card"
    title = first.name if is_card else f"Comparison of {quantity(len(chapters), 'folder')}"
    parts = [_overview(chapters), _compared_curves(folders, pictures)]
    contents = [("overview", "Overview")]
    for i, chapter in enumerate(chapters, start=1):
        anchor = f"folder-{i}"
        body, _ = _body(chapter, "h3", f"{anchor}-part")
        about = element("p", element("b", chapter.kind.capitalize()), ". ", chapter.lead, class_="lead")
        heading = element("h2", chapter.name, id=anchor)
        parts.append(element("article", heading, about, body, aria_labelledby=anchor))
        contents.append((anchor, chapter.name))
    lead = first.lead if is_card else ", ".join(str(chapter.path) for chapter in chapters)
    kind = first.kind if is_card else "comparison"
    return render(title=title, kind=kind, lead=lead, contents=contents, main=join(parts))


def _body(chapter: Chapter, heading: str, prefix: str) -> tuple[Html, list[tuple[str, str]]]:
    """Returns a chapter without its own heading, and the anchors and headings of its parts."""
    stated = {
        problem for _, content in chapter.parts for problem in chapter.problems if notice(problem) in content
    }
    unsaid = [notice(problem) for problem in chapter.problems if problem not in stated]
    tiles = [
        element(
            "div",
            element("dt", what),
            element("dd", value, class_="value"),
            element("dd", remark) if remark else None,
        )
        for what, value, remark in chapter.tiles
    ]
    sections, contents = [], []
    for i, (title, content) in enumerate(chapter.parts, start=1):
        anchor = f"{prefix}-{i}"
        contents.append((anchor, title))
        named = element(heading, title, id=anchor)
        sections.append(element("section", named, content, aria_labelledby=anchor))
    shown = element("dl", tiles, class_="tiles") if tiles else None
    return join(unsaid, shown, sections), contents


def _overview(chapters):
    rows = []
    for i, chapter in enumerate(chapters, start=1):
        for row in chapter.rows:
            link = join(element("a", chapter.name, href=f"#folder-{i}"), element("small", f" {chapter.kind}"))
            errors = number(row.clean_error, 2), number(row.robust_error, 2)
            rows.append((link, row.classifier, *errors, row.about, row.remark))
    header = ("Folder", "Classifier", "Clean error", "Robust error", "Measured on", "Remark")
    shown = table("Errors in %, each under its own attack", header, rows, words=(1, 4, 5))
    return element("section", element("h2", "Overview", id="overview"), shown, aria_labelledby="overview")


def _compared_curves(folders, pictures):
    """Returns the learning curves of several trainings in one figure, where there are several to draw."""
    runs = [folder for folder in folders if isinstance(folder, TrainingDirectory) and _has_epochs(folder)]
    names = [run.path.resolve().name for run in runs]
    if len(set(names)) < len(names):  # runs of one name in different folders
        names = [str(run.path) for run in runs]
    if len(runs) < 2:
        return None
    metrics = {name: run.metrics for name, run in zip(names, runs, strict=True)}
    both = Chapter("comparison", folders[0].path, "")
    return both.attempt(lambda: pictures.curves(lambda file: compare_runs(metrics, file)), runs[0].metrics)


def _has_epochs(run):
    try:
        return run.metrics.exists() and bool(jsonl.read(run.metrics))
    except UsageError:  # its own chapter says so
        return False
