"""The input loss landscape of classifiers: slope, curvature, attacks, alignment. Imports no TensorFlow."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from advtf.errors import UsageError
from advtf.figures.style import BLACK, BLUE, VERMILLION, sheet

LOOKS = {"train": (BLUE, "o", -0.15), "test": (VERMILLION, "s", 0.15)}  # colour, marker, place beside a tick
PANELS = {
    "ig": "IG (nats)",
    "hs": "HS (nats)",
    "av": "AV (nats)",
    "effectiveness": "effectiveness",
    "ga": "GA (cosine)",
}
LENGTHS = ("ig", "hs", "av")  # the others are ratios of about 1
TITLE = "input loss landscape; cf. Li & Spratling 2023, Figs. 1, 3, A2"


def input_landscape(paths_by_label: Mapping[str, str | Path], output: str | Path) -> Path:
    """Draws every measure of every classifier on train and test images; cf. Li & Spratling 2023, Fig. 1.

    A marker is the mean with its standard error, a wide bar holds the middle half of the images, a thin line
    runs from the 5th to the 95th percentile.

    Args:
        paths_by_label: label -> input.npz of the study ``input``. A file of several classifiers has a tick
            for each, with its name behind the label.
        output: .png, .pdf or .svg to write; its folder is made.

    Returns:
        `output`.

    Raises:
        UsageError: no file, one that cannot be read or is no such file, or another suffix of `output`.
    """
    if not paths_by_label:
        raise UsageError("the figure needs at least one input.npz. Received: none.")
    models = [model for label, path in paths_by_label.items() for model in _labelled(label, _read(path))]
    shown = [name for name in PANELS if any(_values(data, name).size for _, data in models)]
    splits = [split for split in LOOKS if any(split in data for _, data in models)]
    longest = max(len(label) for label, _ in models)
    rotated = len(models) * longest > 45
    height = 0.9 + 1.05 * len(shown) + (0.05 * min(longest, 40) if rotated else 0)
    with sheet(output, rows=len(shown), height=height, shared=False) as panels:
        for axes, name in zip(panels, shown, strict=True):
            for place, (_, data) in enumerate(models):
                for split in (split for split in splits if split in data):
                    _draw(axes, place, data[split][name], LOOKS[split])
            axes.set_ylabel(PANELS[name])
            axes.grid(False, axis="x")
            if name in LENGTHS:
                _scale(axes, np.concatenate([_values(data, name) for _, data in models]))
            axes.set_xlim(-0.5, len(models) - 0.5)
            axes.set_xticks(range(len(models)), [])
        labels = [label if len(label) <= 40 else f"…{label[-39:]}" for label, _ in models]
        panels[-1].set_xticks(range(len(models)), labels, rotation=90 if rotated else 0, fontsize=6)
        _legend(panels, splits)
    return Path(output)


def _draw(axes: Axes, place: int, values: np.ndarray, look: tuple) -> None:
    values = values[~np.isnan(values)]
    if not values.size:
        return
    color, marker, aside = look
    low, lower, upper, high = np.percentile(values, (5, 25, 75, 95))
    axes.vlines(place + aside, low, high, color=color, linewidth=0.7)
    axes.vlines(place + aside, lower, upper, color=color, linewidth=5, alpha=0.35)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0
    mark = {"marker": marker, "color": color, "markeredgecolor": BLACK, "markeredgewidth": 0.4}
    axes.errorbar(place + aside, values.mean(), error, capsize=2, ecolor=BLACK, elinewidth=0.7, **mark)


def _scale(axes: Axes, values: np.ndarray) -> None:
    """Logarithmic where all but a few values are positive and they span more than a factor of ten."""
    low, high = np.percentile(values, (2, 98))
    if low > 0 and high > 10 * low:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(panels: list[Axes], splits: list[str]) -> None:
    marks = [
        Line2D(
            [], [], color=LOOKS[split][0], marker=LOOKS[split][1], linestyle="", label=f"{split}, mean ± s.e."
        )
        for split in splits
    ]
    bars = [
        Line2D([], [], color=BLACK, linewidth=5, alpha=0.35, label="middle half"),
        Line2D([], [], color=BLACK, linewidth=0.7, label="5th to 95th percentile"),
    ]
    figure = panels[0].figure
    columns = {"ncols": 2, "title": TITLE, "title_fontsize": 7}
    figure.legend(handles=[*marks, *bars], loc="outside upper center", **columns)
    figure.align_ylabels(panels)


def _values(data: Mapping, name: str) -> np.ndarray:
    """All values of a measure, of whatever split."""
    values = np.concatenate([arrays[name] for arrays in data.values()])
    return values[~np.isnan(values)]


def _labelled(label: str, models: list[tuple[str, dict]]) -> list[tuple[str, dict]]:
    if label and len(models) == 1:
        return [(label, models[0][1])]
    return [(f"{label}: {name}" if label else name, data) for name, data in models]


def _read(path: str | Path) -> list[tuple[str, dict]]:
    """(name, split -> measure -> values) of each classifier in a file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names, splits = file["models"].tolist(), file["splits"].tolist()
            arrays = {split: {name: file[f"{split}_{name}"] for name in PANELS} for split in splits}
    except Exception as error:  # damage shows as almost any exception of zipfile, zlib and NumPy
        raise UsageError(
            f"an input.npz of the study input is required. Received: {path} ({error})."
        ) from error
    return [
        (name, {split: {key: rows[number] for key, rows in of.items()} for split, of in arrays.items()})
        for number, name in enumerate(names)
    ]
