"""Spectra of Hessians: the largest eigenvalues by rank, on a logarithmic axis. Imports no TensorFlow."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from advtf.errors import UsageError
from advtf.figures.results import conditions, curve_labels, read_record, require_some, required
from advtf.figures.style import (
    BLACK,
    BLUE,
    RUN_COLORS,
    VERMILLION,
    Heading,
    legend_above,
    line_handles,
    log_axis,
    sheet,
    short_label,
)

MARKERS = "osD^vPX"
SIZE_LABEL = "|eigenvalue|\n(nats, log scale)"
NORMALISED_LABEL = "|eigenvalue| / loss at\nrandom θ (log scale)"
ENDS = {"largest": "largest ", "smallest": "smallest ", "both": "largest and smallest "}


def spectra(paths_by_label: Mapping[str, str | Path], output: str | Path) -> Path:
    """Draws the eigenvalues of one or more classifiers by rank; cf. Liu et al. 2020, figs. 3 and 9.

    Where a file has the mean loss at random θ, a second panel shows the eigenvalues divided by it. Hollow
    markers are negative eigenvalues, drawn at their magnitude, and crosses are pairs outside the tolerance.

    Args:
        paths_by_label: label of a curve -> hessian.json of the study ``hessian``. A file of several
            classifiers has a curve for each, labelled with its name after that of the file.
        output: .png, .pdf or .svg file to write; its folder is made.

    Returns:
        `output`.

    Raises:
        UsageError: there is no file, one is no hessian.json, or `output` has another suffix.
    """
    require_some(paths_by_label, "hessian.json")
    models = [model for label, path in paths_by_label.items() for model in _labelled(label, _read(path))]
    kinds = ["values", "normalised"] if any(model["normalised"] for _, model in models) else ["values"]
    ends = {_end(path) for path in paths_by_label.values()}
    end = ENDS.get(ends.pop(), "") if len(ends) == 1 else ""
    title = f"The {end}eigenvalues of the Hessian of the loss in the weights"
    told = conditions(paths_by_label.values()).only("train", "test")
    heading = Heading(title, str(told), "cf. Liu et al. 2020, Figs. 3 and 9")
    with sheet(output, heading, rows=len(kinds), height=0.4 + 1.7 * len(kinds), shared=False) as panels:
        for axes, kind in zip(panels, kinds, strict=True):
            for number, (_, model) in enumerate(models):
                if model[kind]:
                    _curve(axes, model[kind], model["converged"], _look(number))
            _rank_axis(axes)
        panels[0].set_ylabel(SIZE_LABEL)
        panels[-1].set_xlabel("rank")
        if len(panels) > 1:
            panels[0].tick_params(labelbottom=False)
            panels[1].set_ylabel(NORMALISED_LABEL)
            panels[0].figure.align_ylabels(panels)
        legend_above(panels[0], *_handles(models))
    return Path(output)


def layer_spectra(path: str | Path, output: str | Path) -> Path:
    """Draws the eigenvalues of each layer's diagonal block, from input to logits; the largest are joined.

    Args:
        path: hessian.json of the study ``hessian`` with ``per_layer``.
        output: .png, .pdf or .svg file to write.

    Returns:
        `output`, with a panel for each classifier. Hollow markers are negative eigenvalues, drawn at their
        magnitude; eigenvalues that do not exceed their residuals are left out.

    Raises:
        UsageError: the file is no hessian.json or has no layers, or `output` has another suffix.
    """
    models = _read(path)
    if not all(model.get("layers") for model in models):
        raise UsageError(f"a hessian.json with layers is required. Received: {path}. Use --per_layer.")
    title = "Eigenvalues of the Hessian's diagonal block of each layer, input to logits"
    heading = Heading(title, str(conditions([path]).only("train", "test")))
    with sheet(output, heading, rows=len(models), height=2.4 * len(models), shared=False) as panels:
        for axes, model in zip(panels, models, strict=True):
            layers = model["layers"]
            for position, layer in enumerate(layers):
                values = np.asarray(layer["values"], float)
                values = values[np.abs(values) > layer["residuals"]]  # others cannot be told from zero
                for part, face in ((values >= 0, BLUE), (values < 0, "white")):
                    axes.plot(
                        np.full(part.sum(), position),
                        np.abs(values[part]),
                        **{"linestyle": "", "marker": "o", "color": BLUE, "markerfacecolor": face},
                        markeredgewidth=0.5,
                    )
            axes.plot([np.abs(layer["values"]).max() for layer in layers], color=VERMILLION, zorder=1)
            names, size = [layer["name"] for layer in layers], 7 if len(layers) <= 12 else 4
            axes.set_xticks(range(len(layers)), names, rotation=0 if len(layers) <= 5 else 90, fontsize=size)
            log_axis(axes.yaxis)
            axes.set_ylabel(SIZE_LABEL)
            axes.set_title(short_label(model["name"], 60), fontsize=7)
            axes.grid(False, axis="x")
        dot = {"linestyle": "", "marker": "o", "color": BLUE, "markeredgewidth": 0.5}
        handles = [
            Line2D([], [], label="positive", **dot),
            Line2D([], [], label="negative", markerfacecolor="white", **dot),
            *line_handles({"largest of each layer": (VERMILLION, "-")}),
        ]
        legend_above(panels[0], handles)
    return Path(output)


def _curve(axes: Axes, values, converged, look: dict) -> None:
    ranks, values = np.arange(1, len(values) + 1), np.asarray(values, float)
    axes.plot(ranks, np.abs(values), linewidth=0.9, **look)
    negative = values < 0
    hollow = {"markerfacecolor": "white", "markeredgewidth": 0.7, "zorder": 3}
    axes.plot(ranks[negative], -values[negative], linestyle="", **look, **hollow)
    outside = ~np.asarray(converged, bool)
    axes.plot(ranks[outside], np.abs(values[outside]), linestyle="", color=BLACK, marker="x", zorder=4)


def _rank_axis(axes: Axes) -> None:
    log_axis(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def _look(number: int) -> dict:
    turn, place = divmod(number, len(RUN_COLORS))  # an eighth classifier has the first colour, another marker
    return {"color": RUN_COLORS[place], "marker": MARKERS[(place + turn) % len(MARKERS)]}


def _handles(models: list[tuple[str, dict]]) -> tuple[list[Line2D], list[Line2D]]:
    """Returns a legend entry for each classifier, and those of the signs and the failures that occur."""
    handles = [Line2D([], [], label=label, **_look(number)) for number, (label, _) in enumerate(models)]
    shown, marks = [model for _, model in models], []
    mark = {"linestyle": "", "color": BLACK}
    if any(value is not None and value < 0 for model in shown for value in model["values"]):
        marks.append(Line2D([], [], label="negative", marker="o", markerfacecolor="white", **mark))
    if not all(all(model["converged"]) for model in shown):
        marks.append(Line2D([], [], label="not converged", marker="x", **mark))
    return handles, marks


def _end(path) -> str | None:
    return (read_record(path, "a hessian.json").get("settings") or {}).get("eigen_end")


def _labelled(label: str, models: list[dict]) -> list[tuple[str, dict]]:
    return list(zip(curve_labels(label, [model["name"] for model in models]), models, strict=True))


def _read(path) -> list[dict]:
    """Returns the classifiers of a results file."""
    kind = "a hessian.json of the study hessian"
    record = read_record(path, kind)
    with required(path, kind):
        for model in record["models"]:
            if not (model["name"] and len(model["values"]) == len(model["converged"]) > 0):
                raise ValueError("no eigenvalues")
            np.asarray(model["values"], float)
            np.asarray(model["normalised"] or [], float)
        return record["models"]
