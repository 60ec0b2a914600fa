"""The chapter of an analysis: the figures and numbers of each study of the landscape."""

import json
from pathlib import Path

from advtf.figures.results import read_record
from advtf.reports import parts
from advtf.reports.chapter import Chapter, Row
from advtf.reports.html import element, fold, join, notice, number
from advtf.reports.pictures import Pictures, image
from advtf.studies.run import FINISHED, AnalysisDirectory, finished_files

# What `StudyContext.write_json` writes before the results of a study.
SHARED = {
    *("versions", "command", "study", "classifiers", "dataset", "order", "split"),
    *("examples", "test_examples", "images", "test_images", "settings"),
}


def chapter(run: AnalysisDirectory, pictures: Pictures) -> Chapter:
    """Returns what the studies of an analysis have found."""
    record = run.read_config()
    told = Chapter("analysis", run.path, run.path.resolve().name)
    config = record.get("config", {})
    models = config.get("model") or []
    studies = config.get("study") or []
    of = f" of {', '.join(map(str, models))}" if models else ""
    told.lead = f"Studies{of}: {', '.join(map(str, studies))}."
    finished = run.state() == "finished"
    told.rows.append(
        Row(
            ", ".join(map(str, models)),
            ", ".join(map(str, studies)),
            remark="" if finished else "not finished",
        )
    )
    if not finished:
        told.parts.append(("Not finished", parts.unfinished(run)))
    for study in studies:
        folder = run.path / str(study)
        told.add(f"Study: {study}", lambda folder=folder: _study(folder), folder)
    if finished:
        told.add("Images", lambda: _images(run), run.results)
    told.add("How to repeat", lambda: parts.repeat(run.command, record, config), run.config)
    return told


def _images(run):
    record = run.read_results()
    used = {record.get("split"): record.get("images"), "test": record.get("test_images")}
    used = {name: part for name, part in used.items() if part}
    return parts.images_table(used) if used else None


def _study(folder: Path):
    files = finished_files(folder)
    if files is None:
        return notice("this study is not finished, or files of it are gone.")
    figures = [image(file) for file in files if file.suffix == ".png"]
    numbers = []
    main = folder / f"{folder.name}.json"
    if main in files:
        record = read_record(main, f"the result of the study {folder.name}")
        content = {name: value for name, value in record.items() if name not in SHARED}
        numbers = [
            fold("Numbers", parts.values_table(f"Results of {folder.name}", content)),
            fold("Settings of this study", parts.values_table("Settings", record.get("settings", {}))),
        ]
    seconds = json.loads((folder / FINISHED).read_text())["seconds"]
    took = element("p", "It took ", number(seconds, 1, "s"), ".")
    return join(element("div", figures, class_="pictures"), took, numbers)
