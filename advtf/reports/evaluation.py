"""The chapter of an evaluation: the error under each attack, the warnings, robustness against ε."""

from collections.abc import Mapping
from typing import Any

from advtf.errors import UsageError, quantity
from advtf.evaluation.attacks import NAMES
from advtf.evaluation.report import EvaluationDirectory
from advtf.evaluation.settings import AttackSettings
from advtf.figures import evaluation as figures
from advtf.figures.results import read_arrays
from advtf.reports import parts
from advtf.reports.chapter import Chapter, Row
from advtf.reports.html import Html, element, fold, join, notice, number, table
from advtf.reports.pictures import Pictures, image
from advtf.settings.threat import format_epsilon


def chapter(run: EvaluationDirectory, pictures: Pictures) -> Chapter:
    """Returns what an evaluation has found, or how far it is."""
    record = run.read_config()
    told = Chapter("evaluation", run.path, run.path.resolve().name)
    model = record.get("options", {}).get("model")
    told.lead = f"An evaluation of {model}." if model else f"An evaluation in {run.path}."
    if run.state() == "finished":
        told.attempt(lambda: _found(told, run, pictures), run.results)
        if not told.parts:
            told.parts.append(("Errors", notice(told.problems[-1])))
            told.rows.append(Row(str(model), remark="evaluation.json is damaged"))
    else:
        kept = f"Kept: {run.kept()}." if run.kept() else ""
        told.parts.append(("Not finished", parts.unfinished(run, kept)))
        told.rows.append(Row(str(model), remark="not finished"))
    settings = record.get("config")
    try:
        settings = AttackSettings.from_json(settings)
    except UsageError as error:
        told.problems.append(parts.unread_settings(run.config, error))
    told.add("How to repeat", lambda: parts.repeat(run.command, record, settings), run.config)
    return told


def labels(record: Mapping[str, Any]) -> dict[str, str]:
    """Returns the labels of the attacks by their names; that of an attack of one's own is its name."""
    return {name: NAMES[name].label if name in NAMES else name for name in record["attacks"]}


def _found(told, run, pictures):
    record = run.read_results()
    clean, worst = record["clean"]["error"], record["worst_case"]["error"]
    where = parts.ball(record["norm"], record["epsilon"])
    dataset = record.get("dataset")
    counted = quantity(record["examples"], "test image")
    told.lead = f"{record['model']}, attacked on {counted}{f' of {dataset}' if dataset else ''} ({where})."
    told.tiles.append(("Clean error", number(clean, 2, "%"), None))
    told.tiles.append(("Worst case", number(worst, 2, "%"), f"of {', '.join(labels(record).values())}"))
    warned = quantity(len(record["warnings"]), "warning") if record["warnings"] else ""
    told.tiles.append(("Warnings", number(len(record["warnings"])), None))
    about = f"{counted}, {', '.join(labels(record).values())}, {where}"
    told.rows.append(Row(record["model"], about, clean, worst, warned))
    told.add("Errors", lambda: errors(record), run.results)
    told.add("Use and limits", lambda: _limits(record), run.results)
    told.add("Robustness against ε", lambda: _by_epsilon(run, record, pictures), run.results)
    told.add("Adversarial examples", lambda: _examples(run), run.examples)
    told.add("Images", lambda: parts.images_table({"test": record["images"]}), run.results)


def errors(record: Mapping[str, Any]) -> Html:
    """Returns the errors under each attack of the content of evaluation.json, below its warnings.

    Every number carries the exact value of the file.
    """
    count, named = record["examples"], labels(record)
    rows = [("no attack", *_outcome(record["clean"], count), None, None)]
    for name, attack in record["attacks"].items():
        rows.append((named[name], *_outcome(attack, count), *_cost(attack, count)))
        for part, found in attack.get("components", {}).items():
            broken = f"broke {found['broken']:,} of {found['attacked']:,}"
            rows.append((f"— {part}", element("small", broken), None, *_cost(found, count)))
    if len(named) > 1:
        rows.append(("worst case", *_outcome(record["worst_case"], count), None, None))
    caption = (
        f"Errors in % of {quantity(count, 'test image')} ({parts.ball(record['norm'], record['epsilon'])})"
    )
    header = ("Attack", "Error", "Mean loss", "Passes per image", "Seconds")
    changes = [element("p", change["reason"]) for change in record.get("left_out", [])]
    return join([notice(each) for each in record["warnings"]], table(caption, header, rows), changes)


def _outcome(entry, count):
    return parts.error_cell(entry["error"], count), number(entry["mean_loss"], 3)


def _cost(found, count):
    passes = found["forward_passes"] + found["backward_passes"]
    return number(passes / count, 0), number(found["seconds"], 1)


def limits(record: Mapping[str, Any]) -> list[str]:
    """Returns what an evaluation has measured, and its warnings, a line each."""
    found = [entry["error"] for entry in record["attacks"].values()] + [record["worst_case"]["error"]]
    named = ", ".join(labels(record).values())
    where = record["norm"], record["epsilon"], record["examples"]
    warnings = [f"Warning: {each}" for each in record["warnings"]] or ["There was no warning."]
    return [parts.measured(f"Measured: {named}", *where, found), *warnings]


def largest_radius(record: Mapping[str, Any]) -> float:
    """Returns the largest ε at which an evaluation has measured the worst case over its attacks."""
    return max(record["epsilon"], *(point["epsilon"] for point in record["robust_accuracy_by_epsilon"]))


def _limits(record):
    radii = {record["norm"]: largest_radius(record)}
    left = parts.not_measured(labels(record).values(), radii, record.get("dataset"))
    return parts.limits([*limits(record), parts.LOWER_BOUND, left])


def _by_epsilon(run, record, pictures):
    points = record["robust_accuracy_by_epsilon"]
    epsilons = sorted(points, key=lambda point: point["epsilon"])
    rows = [
        (
            element("data", format_epsilon(point["epsilon"]), value=repr(point["epsilon"])),
            number(point["robust_accuracy"], 2),
        )
        for point in epsilons
    ]
    shown = table("Accuracy in % in the worst case over the attacks", ("ε", "Robust accuracy"), rows)
    if len(rows) < 3:
        return shown
    return join(pictures.curves(lambda file: figures.robust_accuracy(run.results, file)), shown)


def _examples(run):
    if not run.examples.exists():
        return (
            element("p", "No image was misclassified because of an attack.") if run.results.exists() else None
        )
    names = ("index", "labels", "clean_predictions", "adversarial_predictions", "l2_sizes")
    data = read_arrays(run.examples, names, "the examples.npz of an evaluation")
    rows = [
        (
            *(number(int(data[name][i])) for name in names[:4]),
            number(float(data["l2_sizes"][i])),
        )
        for i in range(len(data["index"]))
    ]
    header = ("Index of the image", "True class", "Predicted", "Under attack", "l2 norm of the perturbation")
    shown = table("The smallest perturbations that were enough, then the largest", header, rows)
    picture = run.figures / "extremes.png"
    return join(
        image(picture) if picture.exists() else None,
        fold(f"Classes of {quantity(len(rows), 'image')}", shown),
    )
