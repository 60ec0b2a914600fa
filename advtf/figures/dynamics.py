"""Training dynamics by update, and training loss by epoch, of several runs. Imports no TensorFlow."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from advtf.errors import UsageError
from advtf.figures.style import RUN_COLORS, from_zero, sheet
from advtf.storage import jsonl

QUANTITIES = {
    "gradient_norm": "gradient norm\n$\\|\\nabla_\\theta \\hat L_\\epsilon\\|_2$",
    "robust_error": "robust training\nerror (%)",
    "distance": "distance from start\n$\\|\\theta-\\theta_0\\|_2$",
}
FIELDS = ("step", "updates", "total", *QUANTITIES)
SMOOTHED = 50  # a curve is the mean over N/50 updates on both sides: the scatter would hide the other runs


def training_dynamics(paths: Mapping[str, str | Path], output: str | Path) -> Path:
    """Draws gradient norm, robust training error and distance of the first and last updates of several runs.

    Cf. Liu et al. 2020, Figs. 2 and 8. What scatters is drawn pale, its moving mean over 1/25 of the window
    in full colour.

    Args:
        paths: dynamics.npz by label, in the order of the legend.
        output: .png, .pdf or .svg to write; its folder is made.

    Returns:
        `output`.

    Raises:
        UsageError: no run, a file that cannot be read or is not such a file, or another suffix of `output`.
    """
    runs = {label: read_dynamics(path) for label, path in _required(paths).items()}
    looks = _looks(runs)
    with sheet(output, rows=3, columns=2, height=4.6, shared=False) as panels:
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
        _head(panels[0].figure, looks, "cf. Liu et al. 2020, Figs. 2 and 8")
    return Path(output)


def read_dynamics(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a dynamics.npz.

    Raises:
        UsageError: it cannot be read, or is not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in FIELDS}
    except Exception as error:  # damage shows as almost any exception of zipfile, zlib and NumPy
        raise UsageError(
            f"a dynamics.npz is required. Received: {path} ({error}). Train with --dynamics_steps."
        ) from error


def windows(log: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns which rows are of the first and which of the last updates; of a short training both."""
    return log["step"] <= log["updates"], log["step"] > log["total"] - log["updates"]


def loss_curves(paths: Mapping[str, str | Path], output: str | Path) -> Path:
    """Draws the mean training loss L_ε of each epoch of several runs; cf. Liu et al. 2020, Fig. 11.

    Args:
        paths: metrics.jsonl by label, in the order of the legend.
        output: .png, .pdf or .svg to write; its folder is made.

    Returns:
        `output`.

    Raises:
        UsageError: as `training_dynamics`.
    """
    runs = {label: _losses(path) for label, path in _required(paths).items()}
    looks = _looks(runs)
    with sheet(output, rows=1, height=2.4) as (axes,):
        for label, (epochs, losses) in runs.items():
            color, line = looks[label]
            axes.plot(epochs, losses, color=color, linestyle=line, marker="o" if len(epochs) <= 12 else "")
        axes.set_ylabel("training loss $L_\\epsilon$")
        from_zero(axes)
        _head(axes.figure, looks, "cf. Liu et al. 2020, Fig. 11")
    return Path(output)


def dead_units(path: str | Path, output: str | Path) -> Path:
    """Draws the percentage of dead units of each layer of one or more classifiers.

    Cf. Liu et al. 2020, section 4.1.

    Args:
        path: dynamics.json of the study ``dynamics``.
        output: .png, .pdf or .svg to write; its folder is made.

    Returns:
        `output`. Filled marks: 0 for every adversarial image; hollow ones: for every clean image.

    Raises:
        UsageError: not such a file, no classifier in it, or another suffix of `output`.
    """
    models = _read_units(path)
    looks = _looks(models)
    with sheet(output, rows=1, height=2.4 + 0.12 * len(models), shared=False) as (axes,):
        for label, layers in models.items():
            color, line = looks[label]
            place = range(len(layers["name"]))
            axes.plot(place, layers["adversarial"], color=color, linestyle=line, marker="o", clip_on=False)
            axes.plot(place, layers["clean"], "o", color=color, markerfacecolor="white", clip_on=False)
        names = max((layers["name"] for layers in models.values()), key=len)
        axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 4 else 0)
        axes.set_ylabel("dead units (%)")
        axes.set_ylim(0, 100)
        title = "0 for every adversarial (filled) or clean image\ncf. Liu et al. 2020, section 4.1"
        _head(axes.figure, looks, title)
    return Path(output)


def _read_units(path):
    """Layer names and percentages by a label of each model; of equal names the later ones are numbered."""
    models = {}
    try:
        for number, model in enumerate(json.loads(Path(path).read_text())["units"], start=1):
            label = f"{model['name']} ({number})" if model["name"] in models else model["name"]
            layers = model["layers"]
            models[label] = {"name": [layer["name"] for layer in layers]}
            for kind in ("clean", "adversarial"):
                models[label][kind] = [100 * layer[kind]["dead"] / layer["units"] for layer in layers]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"a dynamics.json with dead units is required. Received: {path} ({error}). Run --study=dynamics."
        ) from error
    if not models:
        raise UsageError(f"a dynamics.json with dead units is required. Received: {path}, without models.")
    return models


def _required(paths):
    if not paths:
        raise UsageError("the figure needs at least one run. Received: none.")
    return paths


def _looks(runs):
    styles = itertools.cycle(itertools.product(("-", "--", ":"), RUN_COLORS))
    return {label: (color, line) for label, (line, color) in zip(runs, styles, strict=False)}


def _head(figure, looks, title):
    handles = [Line2D([], [], color=color, linestyle=line) for color, line in looks.values()]
    columns = max(1, min(5, 60 // (5 + max(map(len, looks)))))
    place = dict(loc="outside upper center", ncols=columns, handlelength=1.2, columnspacing=1)
    made = figure.legend(handles, list(looks), title=title, title_fontsize=7, **place)
    made.get_title().set_multialignment("center")


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
    """Mean over the neighbours on both sides, as many as there are, up to `reach`."""
    total = np.concatenate(([0.0], np.cumsum(values)))
    index = np.arange(len(values))
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def _share_range(left, right, logarithmic):
    if logarithmic:
        _log_scale(left)
        _log_scale(right)
    else:
        from_zero(max(left, right, key=lambda axes: axes.dataLim.y1))
    limits = [axes.get_ylim() for axes in (left, right)]
    for axes in (left, right):
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    right.tick_params(labelleft=False)


def _log_scale(axes):
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
