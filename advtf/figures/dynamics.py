"""Training dynamics by update, and training loss by epoch, of several runs. Imports no TensorFlow."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from advtf.errors import UsageError
from advtf.figures.results import conditions, read_arrays, read_record, require_some, required
from advtf.figures.style import (
    BLACK,
    Heading,
    from_zero,
    legend_above,
    line_handles,
    log_axis,
    point_marker,
    run_looks,
    sheet,
)
from advtf.storage import jsonl

QUANTITIES = {
    "gradient_norm": "l2 norm of the\nbatch gradient\n(nats, log scale)",
    "robust_error": "robust error of\nthe batch (%)",
    "distance": "l2 distance of\nthe weights from\ntheir start",
}
FIELDS = ("step", "updates", "total", *QUANTITIES)
SMOOTHED = 50  # a curve is a mean over N/50 updates on both sides, as its scatter would hide the other runs


def training_dynamics(paths: Mapping[str, str | Path], output: str | Path) -> Path:
    """Draws gradient norm, robust training error and distance of the first and last updates of several runs.

    Cf. Liu et al. 2020, Figs. 2 and 8. Values that scatter are drawn pale, and their moving mean over 1/25 of
    the window is drawn in full colour.

    Args:
        paths: dynamics.npz by label, in the order of the legend.
        output: .png, .pdf or .svg file to write; its folder is made.

    Returns:
        `output`.

    Raises:
        UsageError: there is no file, one is no dynamics.npz, or `output` has another suffix.
    """
    require_some(paths, "dynamics.npz")
    runs = {label: read_dynamics(path) for label, path in paths.items()}
    looks = run_looks(runs)
    title = "Gradient norm, robust error and distance from the start, by update"
    told = str(conditions(paths.values()).replaced(images={}))
    heading = Heading(title, told, "cf. Liu et al. 2020, Figs. 2 and 8")
    with sheet(output, heading, rows=3, columns=2, height=4.3, shared=False) as panels:
        for row, (name, title) in enumerate(QUANTITIES.items()):
            left, right = panels[2 * row : 2 * row + 2]
            for label, run in runs.items():
                for axes, window in zip((left, right), windows(run), strict=True):
                    _curve(axes, run, name, window, looks[label])
            left.set_ylabel(title)
            _share_range(left, right, logarithmic=name == "gradient_norm")
        longest = max(int(min(run["updates"], run["total"])) for run in runs.values())
        panels[4].set_xlabel(f"update (first {longest:,})")
        panels[5].set_xlabel(f"update (last {longest:,})")
        pale = Line2D([], [], color=BLACK, alpha=0.3, linewidth=0.4, label="pale: single updates")
        legend_above(panels[0], line_handles(looks), [pale])
    return Path(output)


def read_dynamics(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a dynamics.npz.

    Raises:
        UsageError: it cannot be read, or is not such a file.
    """
    return read_arrays(path, FIELDS, "a dynamics.npz", "Train with --dynamics_steps.")


def windows(log: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns which rows are of the first and of the last updates; in a short training some are of both."""
    return log["step"] <= log["updates"], log["step"] > log["total"] - log["updates"]


def loss_curves(paths: Mapping[str, str | Path], output: str | Path) -> Path:
    """Draws the mean training loss L_ε of each epoch of several runs; cf. Liu et al. 2020, Fig. 11.

    Args:
        paths: metrics.jsonl by label, in the order of the legend.
        output: .png, .pdf or .svg file to write; its folder is made.

    Returns:
        `output`.

    Raises:
        UsageError: there is no file, one has no epoch with its loss, or `output` has another suffix.
    """
    require_some(paths, "metrics.jsonl")
    runs = {label: _losses(path) for label, path in paths.items()}
    looks = run_looks(runs)
    told = str(conditions(paths.values()).only("train"))
    heading = Heading("Adversarial training loss, by epoch", told, "cf. Liu et al. 2020, Fig. 11")
    with sheet(output, heading, rows=1, height=2.1) as (axes,):
        for label, (epochs, losses) in runs.items():
            color, line = looks[label]
            axes.plot(epochs, losses, color=color, linestyle=line, marker=point_marker(len(epochs)))
        axes.set_ylabel("mean loss of\nthe epoch (nats)")
        from_zero(axes)
        legend_above(axes, line_handles(looks))
    return Path(output)


def dead_units(path: str | Path, output: str | Path) -> Path:
    """Draws the percentage of dead units of each layer of one or more classifiers.

    Cf. Liu et al. 2020, section 4.1.

    Args:
        path: dynamics.json of the study ``dynamics``.
        output: .png, .pdf or .svg file to write; its folder is made.

    Returns:
        `output`. Filled marks are units that are 0 for every adversarial image, hollow marks those that are
        0 for every clean image.

    Raises:
        UsageError: `path` is no such file or has no classifier, or `output` has another suffix.
    """
    models = _read_units(path)
    looks = run_looks(models)
    told = str(conditions([path]).only("train", "test"))
    heading = Heading("Units that are 0 for every image, by layer", told, "cf. Liu et al. 2020, section 4.1")
    with sheet(output, heading, rows=1, height=2.4, shared=False) as (axes,):
        for label, layers in models.items():
            color, line = looks[label]
            positions = range(len(layers["name"]))
            axes.plot(
                positions, layers["adversarial"], color=color, linestyle=line, marker="o", clip_on=False
            )
            axes.plot(positions, layers["clean"], "o", color=color, markerfacecolor="white", clip_on=False)
        names = max((layers["name"] for layers in models.values()), key=len)
        axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 4 else 0)
        axes.set_xlabel("layer, from the input to the logits")
        axes.set_ylabel("dead units (%)")
        axes.set_ylim(0, 100)
        dot = {"linestyle": "", "marker": "o", "color": BLACK}
        kinds = [
            Line2D([], [], label="adversarial images", **dot),
            Line2D([], [], label="clean images", markerfacecolor="white", **dot),
        ]
        legend_above(axes, line_handles(looks), kinds)
    return Path(output)


def _read_units(path):
    """Returns layer names and percentages by the name of each model; equal names get a number."""
    kind, remedy, models = "a dynamics.json with dead units", "Run --study=dynamics.", {}
    record = read_record(path, kind, remedy)
    with required(path, kind, remedy):
        for number, model in enumerate(record["units"], start=1):
            label = f"{model['name']} ({number})" if model["name"] in models else model["name"]
            layers = model["layers"]
            models[label] = {"name": [layer["name"] for layer in layers]}
            for images in ("clean", "adversarial"):
                models[label][images] = [100 * layer[images]["dead"] / layer["units"] for layer in layers]
        if not models:
            raise ValueError("no models")
    return models


def _losses(path):
    records = {record.get("epoch"): record.get("loss") for record in jsonl.read(path)}
    if not records or None in records:
        raise UsageError(f"a metrics.jsonl with epochs and losses is required. Received: {path}.")
    losses = [np.nan if loss is None else loss for loss in records.values()]
    return np.array(list(records), float), np.array(losses, float)


def _curve(axes, run, name, window, look):
    steps, values = run["step"][window], run[name][window]
    color, line = look
    if name != "distance":
        axes.plot(steps, values, color=color, alpha=0.15, linewidth=0.4)
        values = _moving_mean(values, len(values) // SMOOTHED)
    axes.plot(steps, values, color=color, linestyle=line)


def _moving_mean(values, reach):
    """Returns the mean over up to `reach` neighbours on each side, as many as there are."""
    total = np.concatenate(([0.0], np.cumsum(values)))
    index = np.arange(len(values))
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def _share_range(left, right, logarithmic):
    if logarithmic:
        log_axis(left.yaxis)
        log_axis(right.yaxis)
    else:
        from_zero(max(left, right, key=lambda axes: axes.dataLim.y1))
    limits = [axes.get_ylim() for axes in (left, right)]
    for axes in (left, right):
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    right.tick_params(labelleft=False)
