"""The study ``dynamics``: the updates of training runs, and the dead units of trained classifiers.

Liu et al. 2020, section 4.1, figures 2, 8, 11 and, for dead layers, 14.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from advtf.classifiers.classifier import Classifier
from advtf.errors import UsageError, quantity
from advtf.figures import dynamics as figures
from advtf.landscape.units import LayerUnits, UnitCounter
from advtf.settings.threat import format_epsilon
from advtf.storage.run_directory import RunDirectory
from advtf.studies.context import StudyContext
from advtf.training.directory import TrainingDirectory


def run(context: StudyContext) -> list[Path]:
    """Writes dynamics.json and figures of the training runs and of the models, and tells their tables.

    Training runs give updates.png from their dynamics.npz and loss.png from their metrics.jsonl. Models give
    dead_units.png, counted over the clean and the adversarial images of the data set.

    Raises:
        UsageError: a run without these files, two runs with one folder name, or a model whose layers are not
            known.
    """
    batch_size = context.settings.batch_size
    counters = [UnitCounter(_model(classifier), batch_size=batch_size) for classifier in context.classifiers]
    folders = [TrainingDirectory(Path(folder)) for folder in context.settings.run_dirs]
    runs = dict(zip(labels(folders), folders, strict=True))
    summaries = {label: summary(folder.dynamics) for label, folder in runs.items()}
    units = [_units(context, *pair) for pair in zip(context.classifiers, counters, strict=True)]
    for line in [*_updates_table(summaries), *_units_table(units)]:
        context.say(line)
    listed = [
        {"label": label, "folder": str(runs[label].path)} | values for label, values in summaries.items()
    ]
    record = context.write_json("dynamics", {"runs": listed, "units": units})
    return [record, *_draw(context.folder, record, runs, bool(units))]


def _draw(folder: Path, record: Path, runs: Mapping[str, RunDirectory], units: bool) -> Iterator[Path]:
    if runs:
        updates = {label: run.dynamics for label, run in runs.items()}
        yield figures.training_dynamics(updates, folder / "updates.png")
        losses = {label: run.metrics for label, run in runs.items()}
        yield figures.loss_curves(losses, folder / "loss.png")
    if units:
        yield figures.dead_units(record, folder / "dead_units.png")


def labels(runs: list[RunDirectory]) -> list[str]:
    """Names runs by their ε where that tells them apart, else by their folders.

    Raises:
        UsageError: neither tells them apart.
    """
    radii = [run.read_config().get("config", {}).get("eps") for run in runs]
    if None not in radii and len(set(radii)) == len(runs):
        return [f"ε = {_radius(radius)}" for radius in radii]
    names = [run.path.resolve().name for run in runs]
    if len(set(names)) < len(names):
        raise UsageError(f"run_dirs must have different names. Received: {', '.join(names)}.")
    return names


def _radius(value):
    return f"{value:g}" if value == round(value, 3) else format_epsilon(value)  # 0.2, and not 51/255


def summary(path: Path) -> dict:
    """Returns the means over the first and over the last updates in a dynamics.npz.

    Args:
        path: a dynamics.npz.

    Returns:
        "updates" N and "total"; under "first" and "last" the number of updates "recorded", the means of
        "gradient_norm" and "robust_error" (percent) and the "distance" after the last of them.

    Raises:
        UsageError: not such a file.
    """
    log = figures.read_dynamics(path)
    first, last = figures.windows(log)
    found = {"updates": int(log["updates"]), "total": int(log["total"])}
    return found | {"first": _means(log, first), "last": _means(log, last)}


def _means(log, window):
    recorded = int(np.count_nonzero(window))
    if not recorded:
        return {"recorded": 0, "gradient_norm": None, "robust_error": None, "distance": None}
    means = {name: float(log[name][window].mean()) for name in ("gradient_norm", "robust_error")}
    return {"recorded": recorded, **means, "distance": float(log["distance"][window][-1])}


def _model(classifier):
    if classifier.model is None:
        raise UsageError(
            f"dead units need the layers of a model. Received: {classifier.name}, a SavedModel without a "
            "training configuration or an ensemble. Give a member exported by this package."
        )
    return classifier.model


def _units(context: StudyContext, classifier: Classifier, counter: UnitCounter) -> dict:
    x_adv = context.adversarial_examples(classifier, f"attacking {classifier.name}")
    layers = [
        {"name": one.name, "units": one.units, "channels": one.channels}
        | {"clean": _counts(one), "adversarial": _counts(two)}
        for one, two in zip(counter(context.x), counter(x_adv), strict=True)
    ]
    return {"name": classifier.name, "examples": len(context.x), "layers": layers}


def _counts(layer: LayerUnits) -> dict:
    return {name: getattr(layer, name) for name in ("dead", "dead_channels", "dead_layer")}


def _updates_table(summaries) -> Iterator[str]:
    if summaries:
        yield f"{'':<24}{'updates':>14}{'gradient norm':>15}{'robust error (%)':>18}{'distance':>10}"
    for label, values in summaries.items():
        for window in ("first", "last"):
            means = values[window]
            norm, error = _cell(means["gradient_norm"], ".4g"), _cell(means["robust_error"], ".2f")
            distance = _cell(means["distance"], ".4g")
            yield f"{label:<24}{window:<6}{means['recorded']:>8,}{norm:>15}{error:>18}{distance:>10}"


def _cell(value, form):
    return "–" if value is None else format(value, form)


def _units_table(models) -> Iterator[str]:
    for model in models:
        images = quantity(model["examples"], "image")
        yield f"{model['name']}: dead units over {images}, clean and adversarial"
        yield f"  {'layer':<20}{'units':>8}{'clean':>8}{'adv.':>8}{'channels':>10}{'clean':>8}{'adv.':>8}"
        for layer in model["layers"]:
            clean, adversarial = layer["clean"], layer["adversarial"]
            units = f"{layer['units']:>8,}{clean['dead']:>8,}{adversarial['dead']:>8,}"
            channels = (
                f"{layer['channels']:>10,}{clean['dead_channels']:>8,}{adversarial['dead_channels']:>8,}"
            )
            dead = "  dead layer" if clean["dead_layer"] and adversarial["dead_layer"] else ""
            yield f"  {layer['name']:<20}{units}{channels}{dead}"
