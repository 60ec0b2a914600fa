"""The input loss landscape of classifiers: slope, curvature, attacks, alignment. Imports no TensorFlow."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from advtf.figures.results import conditions, curve_labels, require_some, required
from advtf.figures.style import (
    BLACK,
    BLUE,
    VERMILLION,
    Heading,
    legend_above,
    log_axis,
    sheet,
    short_label,
)
from advtf.landscape.statistics import estimate

LOOKS = {"train": (BLUE, "o", -0.2), "test": (VERMILLION, "s", 0.2)}  # colour, marker, offset from a tick
SPLITS = {"train": "training images", "test": "test images"}
PANELS = {
    "ig": "slope: l1 norm of the input gradient, IG (nats)",
    "hs": "curvature: l1 norm of the largest eigenvalues\nof the input Hessian, HS (nats)",
    "av": "adversarial variance: rise of the loss\nunder attack, AV (nats)",
    "effectiveness": "effectiveness: that rise, relative to that of the\nstrong reference attack",
    "ga": "gradient alignment: cosine of the input gradients\nat the image and at a random neighbour, GA",
}
LENGTHS = ("ig", "hs", "av")  # the other measures are ratios of about 1
TITLE = "The loss around each image: slope, curvature and attacks"
SOURCE = "cf. Li & Spratling 2023, Figs. 1, 3, A2"
LONGEST_NAME = 26  # letters beside the panels


def input_landscape(paths_by_label: Mapping[str, str | Path], output: str | Path) -> Path:
    """Draws every measure of every classifier on train and test images; cf. Li & Spratling 2023, Fig. 1.

    A marker is the mean with its standard error, a wide bar holds the middle half of the images, and a thin
    line runs from the 5th to the 95th percentile.

    Args:
        paths_by_label: label -> input.npz of the study ``input``. A file of several classifiers has a tick
            for each, labelled with its name after that of the file.
        output: .png, .pdf or .svg file to write; its folder is made.

    Returns:
        `output`.

    Raises:
        UsageError: there is no file, one is no input.npz, or `output` has another suffix.
    """
    require_some(paths_by_label, "input.npz")
    models = [model for label, path in paths_by_label.items() for model in _labelled(label, _read(path))]
    shown = [name for name in PANELS if any(_values(data, name).size for _, data in models)] or list(PANELS)
    splits = [split for split in LOOKS if any(split in data for _, data in models)]
    told = str(conditions(paths_by_label.values()))
    if len(models) == 1:
        told = ": ".join(part for part in (short_label(models[0][0]), told) if part)
    height = len(shown) * (0.6 + (0.2 if len(models) <= 8 else 0.13) * len(models))
    with sheet(output, Heading(TITLE, told, SOURCE), rows=len(shown), height=height, shared=False) as panels:
        for axes, name in zip(panels, shown, strict=True):
            for position, (_, data) in enumerate(models):
                for split in (split for split in splits if split in data):
                    _draw(axes, position, data[split][name], LOOKS[split])
            axes.set_xlabel(PANELS[name], fontsize=7, loc="right")  # where no name is above it
            axes.grid(False, axis="y")
            if name in LENGTHS:
                _scale(axes, np.concatenate([_values(data, name) for _, data in models]))
            axes.set_ylim(len(models) - 0.5, -0.5)  # the first classifier is the topmost
            labels = [short_label(label, LONGEST_NAME) for label, _ in models]
            axes.set_yticks(range(len(models)), labels if len(models) > 1 else [""], fontsize=6)
            axes.tick_params(axis="y", length=0)
        _legend(panels, splits)
    return Path(output)


def _draw(axes: Axes, position: int, values: np.ndarray, look: tuple) -> None:
    values = values[~np.isnan(values)]
    if not values.size:
        return
    color, marker, offset = look
    low, lower, upper, high = np.percentile(values, (5, 25, 75, 95))
    axes.hlines(position + offset, low, high, color=color, linewidth=0.7)
    axes.hlines(position + offset, lower, upper, color=color, linewidth=5, alpha=0.35)
    mean = estimate(values)
    error = mean.standard_error if mean.count > 1 else 0
    mark = {"marker": marker, "color": color, "markeredgecolor": BLACK, "markeredgewidth": 0.4}
    axes.errorbar(mean.mean, position + offset, xerr=error, capsize=2, ecolor=BLACK, elinewidth=0.7, **mark)


def _scale(axes: Axes, values: np.ndarray) -> None:
    """Makes an axis logarithmic where all but a few values are positive and span a factor of ten."""
    low, high = np.percentile(values, (2, 98)) if values.size else (0, 0)
    if low > 0 and high > 10 * low:
        log_axis(axes.xaxis)
        label = axes.xaxis.label
        label.set_text(label.get_text().replace("(nats)", "(nats, log scale)"))


def _legend(panels: list[Axes], splits: list[str]) -> None:
    looks = {split: LOOKS[split][:2] for split in splits}
    marks = [
        Line2D(
            [], [], color=color, marker=marker, linestyle="", label=f"{SPLITS[split]}: mean ± standard error"
        )
        for split, (color, marker) in looks.items()
    ]
    bars = [
        Line2D([], [], color=BLACK, linewidth=5, alpha=0.35, label="middle half"),
        Line2D([], [], color=BLACK, linewidth=0.7, label="5th to 95th percentile"),
    ]
    legend_above(panels[0], marks, bars)


def _values(data: Mapping, name: str) -> np.ndarray:
    """Returns all values of a measure, whatever their split."""
    values = np.concatenate([arrays[name] for arrays in data.values()])
    return values[~np.isnan(values)]


def _labelled(label: str, models: list[tuple[str, dict]]) -> list[tuple[str, dict]]:
    names, data = zip(*models, strict=True)
    return list(zip(curve_labels(label, names), data, strict=True))


def _read(path: str | Path) -> list[tuple[str, dict]]:
    """Returns (name, split -> measure -> values) of each classifier in a file."""
    with (
        required(path, "an input.npz of the study input"),
        np.load(path, allow_pickle=False) as file,
    ):
        names, splits = file["models"].tolist(), file["splits"].tolist()
        arrays = {split: {name: file[f"{split}_{name}"] for name in PANELS} for split in splits}
    return [
        (name, {split: {key: rows[number] for key, rows in of.items()} for split, of in arrays.items()})
        for number, name in enumerate(names)
    ]
