"""The chapter of a training: what was trained, its curves and schedule, the errors of its classifiers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advtf.errors import UsageError, quantity
from advtf.figures import training as figures
from advtf.figures.results import read_arrays
from advtf.reports import parts
from advtf.reports.chapter import Chapter, Row
from advtf.reports.html import Html, element, fold, join, notice, number, table
from advtf.reports.pictures import Pictures, image
from advtf.settings.threat import format_epsilon
from advtf.storage import jsonl
from advtf.training.directory import TrainingDirectory
from advtf.training.settings import TrainConfig, describe

COMPARED = ("last", "best", "ensemble")  # the classifiers that the table of several runs shows
CHOSEN_ON_TEST = "chosen on the test images"


def chapter(run: TrainingDirectory, pictures: Pictures) -> Chapter:
    """Returns what a training has left to tell, also of one that is not finished."""
    record = run.read_config()
    told = Chapter("training", run.path, run.path.resolve().name)
    config = settings_of(told, run, record)
    results = results_of(told, run) if run.state() == "finished" else None
    told.lead = _lead(run, record, config)
    if run.state() != "finished":
        told.parts.append(("Not finished", told.attempt(lambda: _unfinished(run, config), run.metrics)))
        told.rows.append(Row(told.name, remark="not finished"))
    if results:
        told.attempt(lambda: _headline(told, results), run.results)
        told.add("Errors", lambda: errors(results), run.results)
        told.add("Use and limits", lambda: _limits(results, config), run.results)
    if config:
        told.add("What was trained", lambda: parts.described(plan(config)), run.config)
    add_curves(told, run, config, pictures)
    told.add("Adversarial examples", lambda: examples(run), run.examples)
    if results:
        told.add("Images", lambda: parts.images_table(results["images"]), run.results)
    known = config or record.get("config")
    told.add("How to repeat", lambda: parts.repeat(run.command, record, known), run.config)
    return told


def settings_of(told: Chapter, run: TrainingDirectory, record: Mapping[str, Any]) -> TrainConfig | None:
    """Returns the settings of the training; None, and a problem in the chapter, if they cannot be read."""
    try:
        return TrainConfig.from_json(record.get("config"))
    except UsageError as error:
        told.problems.append(parts.unread_settings(run.config, error))
        return None


def results_of(told: Chapter, run: TrainingDirectory) -> dict | None:
    """Returns the content of evaluation.json; None, and a notice in the chapter, if it cannot be read."""
    kept = {}

    def read():
        kept.update(run.read_results())

    damage = told.attempt(read, run.results)
    if damage:
        told.parts.append(("Errors", damage))
        told.rows.append(Row(told.name, remark="evaluation.json is damaged"))
    return kept or None


def _lead(run, record, config):
    if config is None:
        return f"A training in {run.path}."
    counts = record.get("image_counts")
    images = f"{counts['train']:,} images of " if isinstance(counts, dict) and "train" in counts else ""
    told = plan(config)
    return f"{told['model']}; trained on {images}{config.dataset} with the objective {told['method']}."


def plan(config: TrainConfig) -> dict[str, str]:
    """Returns the plan of the training, as the command prints it before it begins."""
    return {name: line for name, line in describe(config, ()).items() if name != "given"}


def _unfinished(run, config):
    epochs = len({record.get("epoch") for record in jsonl.read(run.metrics)}) if run.metrics.exists() else 0
    planned = f" of {config.epochs:,}" if config else ""
    return parts.unfinished(run, f"Epochs recorded: {epochs:,}{planned}.")


def _headline(told, results):
    attack = results["attack"]
    about = f"{attack['name']}, {parts.ball(attack['norm'], attack['epsilon'])}"
    for name, entry in results["results"].items():
        if name not in COMPARED:
            continue
        remark = CHOSEN_ON_TEST if entry.get("selected_on") == "test" else ""
        clean = join("clean ", number(entry["clean_error"], 2, "%"))
        told.tiles.append((f"{attack['name']} error, {name}", number(entry["pgd_error"], 2, "%"), clean))
        where = f"{quantity(entry['examples'], 'test image')}, {about}"
        told.rows.append(Row(name, where, entry["clean_error"], entry["pgd_error"], remark))


def errors(results: Mapping[str, Any]) -> Html:
    """Returns the table of errors of the content of evaluation.json, with its warnings.

    Every number carries the exact value of the file.
    """
    attack, records = results["attack"], results["results"]
    restarts = f"×{attack['restarts']}" if attack.get("restarts", 1) > 1 else ""
    name = f"{attack['name']}{restarts}"
    rows = []
    for classifier, record in records.items():
        count = record["examples"]
        cells = [parts.error_cell(record[kind], count) for kind in ("clean_error", "pgd_error")]
        chosen = f"chosen on the {record['selected_on']} images" if record.get("selected_on") else ""
        rows.append((classifier, number(record["epoch"]), *cells, number(count), chosen))
    caption = f"Errors in % of the test images ({name}, {parts.ball(attack['norm'], attack['epsilon'])})"
    header = ("Classifier", "Epoch", "Clean", name, "Images", "Remark")
    shown = table(caption, header, rows, words=(5,))
    gaps = [
        element(
            "p",
            f"Robust overfitting of {last}: ",
            number(gap, 2, "points"),
            f" (its {name} error less that of the best epoch).",
        )
        for last, gap in results.get("robust_overfitting", {}).items()
    ]
    optimistic = [each for each, record in records.items() if record.get("selected_on") == "test"]
    warned = [notice(f"{each} was {CHOSEN_ON_TEST}, so its errors are too small.") for each in optimistic]
    return join(warned, shown, gaps)


def _limits(results, config):
    attack, images = results["attack"], results["images"]
    dataset = config.dataset if config else None
    errors = [record["pgd_error"] for record in results["results"].values()]
    what = f"Measured: {attack['name']} from {quantity(attack['restarts'], 'start')}"
    norm, epsilon = attack["norm"], attack["epsilon"]
    return parts.limits(
        [
            trained_on(images, dataset),
            parts.measured(what, norm, epsilon, images["test"]["examples"], errors),
            parts.LOWER_BOUND,
            parts.not_measured([attack["name"]], {norm: epsilon}, dataset),
        ]
    )


def trained_on(images: Mapping[str, Any], dataset: str | None) -> str:
    """Returns what a classifier was trained on, from the record of the images that were used."""
    of = f" of {dataset}" if dataset else ""
    held = images.get("validation")
    chosen = f"; {held['examples']:,} others chose the best epoch" if held else ""
    return f"Trained on {quantity(images['train']['examples'], 'image')}{of}{chosen}."


def add_curves(told: Chapter, run: TrainingDirectory, config: TrainConfig | None, pictures: Pictures) -> None:
    """Adds the learning curves and the schedules, each with its values."""
    if not run.metrics.exists():
        told.parts.append(
            ("Curves and schedule", notice("There is no metrics.jsonl: no epoch is recorded.", "note"))
        )
        return
    select_on, periods, unit = (
        (config.select_on, config.periods, config.schedule_unit) if config else ("validation", (), "epoch")
    )

    def curves():
        drawn = [
            pictures.curves(lambda file: figures.learning_curves(run.metrics, file, select_on)),
            pictures.curves(lambda file: figures.schedule(run.metrics, file, periods, unit)),
        ]
        return join(element("div", drawn, class_="pictures"), epochs_table(run.metrics))

    told.add("Curves and schedule", curves, run.metrics)


def epochs_table(metrics: Path) -> Html:
    """Returns the values of every epoch, folded up."""
    records = jsonl.read(metrics)
    names = list(dict.fromkeys(name for record in records for name in record))
    names.sort(key=lambda name: name != "epoch")
    rows = [[number(record.get(name)) for name in names] for record in records]
    header = [name.replace("_", " ") for name in names]
    shown = table("Values of every epoch; accuracies are fractions", header, rows)
    return fold(f"Values of {quantity(len(records), 'epoch')}", shown)


def examples(run: TrainingDirectory) -> Html | None:
    """Returns the figure of adversarial examples with the classes in it; None if there are none yet."""
    if not run.examples.exists():
        return None
    names = ("labels", "clean_predictions", "adversarial_predictions", "epsilon")
    data = read_arrays(run.examples, names, "the examples.npz of a training")
    rows = [
        (number(i), *(number(int(data[name][i - 1])) for name in names[:3]))
        for i in range(1, len(data["labels"]) + 1)
    ]
    epsilon = format_epsilon(float(data["epsilon"]))
    caption = f"Classes of the first test images, for the last epoch at ε = {epsilon}"
    classes = table(caption, ("Image", "True class", "Predicted", "Under attack"), rows)
    picture = run.figures / "adversarial_examples.png"
    return join(image(picture) if picture.exists() else None, fold("Classes of these images", classes))
