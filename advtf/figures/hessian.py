"""Spectra of Hessians: the largest eigenvalues by rank, on a logarithmic axis. Imports no TensorFlow."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from advtf.errors import UsageError
from advtf.figures.results import curve_labels, read_record, require_some, required
from advtf.figures.style import (
    BLACK,
    BLUE,
    RUN_COLORS,
    VERMILLION,
    legend_above,
    line_handles,
    log_axis,
    sheet,
)

MARKERS = "osD^vPX"
VALUE_LABEL = "eigenvalue of $\\nabla^2_\\theta L_\\epsilon$ (nats)"


def spectra(paths_by_label: Mapping[str, str | Path], output: str | Path) -> Path:
    """Draws the eigenvalues of one or more classifiers by rank; cf. Liu et al. 2020, figs. 3 and 9.

    Solid curves are the eigenvalues divided by the mean loss at random θ, where a file has it, and dashed
    ones are the eigenvalues themselves. Hollow markers are negative eigenvalues, drawn at their magnitude,
    and crosses are pairs outside the tolerance.

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
    normalised = any(model["normalised"] for _, model in models)
    with sheet(output, rows=1, height=2.8, shared=False) as (axes,):
        for number, (_, model) in enumerate(models):
            look = _look(number)
            _curve(axes, model["values"], model["converged"], "--" if normalised else "-", look)
            if model["normalised"]:
                _curve(axes, model["normalised"], model["converged"], "-", look)
        _rank_axes(axes)
        _legend(axes, [label for label, _ in models], normalised)
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
    with sheet(output, rows=len(models), height=0.5 + 2.4 * len(models), shared=False) as panels:
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
            axes.set_ylabel(VALUE_LABEL)
            axes.set_title(f"diagonal blocks of the Hessian\n{model['name']}", fontsize=7)
            axes.grid(False, axis="x")
    return Path(output)


def _curve(axes: Axes, values, converged, line: str, look: dict) -> None:
    ranks, values = np.arange(1, len(values) + 1), np.asarray(values, float)
    axes.plot(ranks, np.abs(values), linestyle=line, linewidth=0.9, **look)
    negative = values < 0
    hollow = {"markerfacecolor": "white", "markeredgewidth": 0.7, "zorder": 3}
    axes.plot(ranks[negative], -values[negative], linestyle="", **look, **hollow)
    outside = ~np.asarray(converged, bool)
    axes.plot(ranks[outside], np.abs(values[outside]), linestyle="", color=BLACK, marker="x", zorder=4)


def _rank_axes(axes: Axes) -> None:
    log_axis(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.set_xlabel("rank")
    axes.set_ylabel(VALUE_LABEL)


def _look(number: int) -> dict:
    return {"color": RUN_COLORS[number % len(RUN_COLORS)], "marker": MARKERS[number % len(MARKERS)]}


def _legend(axes: Axes, labels: list[str], normalised: bool) -> None:
    handles = [Line2D([], [], label=label, **_look(number)) for number, label in enumerate(labels)]
    if normalised:
        handles += line_handles({"normalised": (BLACK, "-"), "original": (BLACK, "--")})
    legend_above(axes, handles, "Hessian spectrum; cf. Liu et al. 2020, Figs. 3 and 9")


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
