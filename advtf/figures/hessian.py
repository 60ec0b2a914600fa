"""Spectra of Hessians: the largest eigenvalues by rank, on a logarithmic axis. Imports no TensorFlow."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from advtf.errors import UsageError
from advtf.figures.style import BLACK, BLUE, RUN_COLORS, VERMILLION, sheet

MARKERS = "osD^vPX"
VALUE_LABEL = "eigenvalue of $\\nabla^2_\\theta L_\\epsilon$ (nats)"


def spectra(paths_by_label: Mapping[str, str | Path], output: str | Path) -> Path:
    """Draws the eigenvalues of one or more classifiers by rank; cf. Liu et al. 2020, figs. 3 and 9.

    Dashed: the eigenvalues; solid: divided by the mean loss at random θ, where a file has it. Hollow
    markers are negative eigenvalues, drawn at their magnitude; crosses are pairs outside the tolerance.

    Args:
        paths_by_label: label of a curve -> hessian.json of the study ``hessian``. A file of several
            classifiers makes a curve of each, with its name behind the label.
        output: .png, .pdf or .svg to write; its folder is made.

    Returns:
        `output`.

    Raises:
        UsageError: no file, one that cannot be read or is no such file, or another suffix of `output`.
    """
    if not paths_by_label:
        raise UsageError("spectra needs at least one hessian.json. Received: none.")
    models = [model for label, path in paths_by_label.items() for model in _labelled(label, _read(path))]
    normalised = any(model["normalised"] for _, model in models)
    with sheet(output, rows=1, height=2.8, shared=False) as (axes,):
        for number, (_, model) in enumerate(models):
            look = {"color": RUN_COLORS[number % len(RUN_COLORS)], "marker": MARKERS[number % len(MARKERS)]}
            _curve(axes, model["values"], model["converged"], "--" if normalised else "-", look)
            if model["normalised"]:
                _curve(axes, model["normalised"], model["converged"], "-", look)
        _rank_axes(axes)
        handles = [
            Line2D([], [], color=RUN_COLORS[n % len(RUN_COLORS)], marker=MARKERS[n % len(MARKERS)])
            for n in range(len(models))
        ]
        _legend(axes, handles, [label for label, _ in models], normalised)
    return Path(output)


def layer_spectra(path: str | Path, output: str | Path) -> Path:
    """Draws the eigenvalues of each layer's diagonal block, from input to logits; the largest are joined.

    Args:
        path: hessian.json of the study ``hessian`` with ``per_layer``.
        output: .png, .pdf or .svg to write; a panel for each classifier.

    Returns:
        `output`. Hollow markers are negative eigenvalues, drawn at their magnitude; those that are not
        larger than their residuals are left out.

    Raises:
        UsageError: a file that cannot be read or has no layers, or another suffix of `output`.
    """
    models = _read(path)
    if not all(model.get("layers") for model in models):
        raise UsageError(f"a hessian.json with layers is required. Received: {path}. Use --per_layer.")
    with sheet(output, rows=len(models), height=0.5 + 2.4 * len(models), shared=False) as panels:
        for axes, model in zip(panels, models, strict=True):
            layers = model["layers"]
            for place, layer in enumerate(layers):
                values = np.asarray(layer["values"], float)
                values = values[np.abs(values) > layer["residuals"]]  # others cannot be told from zero
                for part, face in ((values >= 0, BLUE), (values < 0, "white")):
                    axes.plot(
                        np.full(part.sum(), place),
                        np.abs(values[part]),
                        **{"linestyle": "", "marker": "o", "color": BLUE, "markerfacecolor": face},
                        markeredgewidth=0.5,
                    )
            axes.plot([np.abs(layer["values"]).max() for layer in layers], color=VERMILLION, zorder=1)
            names, size = [layer["name"] for layer in layers], 7 if len(layers) <= 12 else 4
            axes.set_xticks(range(len(layers)), names, rotation=0 if len(layers) <= 5 else 90, fontsize=size)
            axes.set_yscale("log")
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
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.set_xlabel("rank")
    axes.set_ylabel(VALUE_LABEL)


def _legend(axes: Axes, handles: list[Line2D], labels: list[str], normalised: bool) -> None:
    if normalised:
        handles = handles + [
            Line2D([], [], color=BLACK, linestyle="-"),
            Line2D([], [], color=BLACK, linestyle="--"),
        ]
        labels = labels + ["normalised", "original"]
    columns = 3 if max(map(len, labels)) <= 12 else 1
    title = "Hessian spectrum; cf. Liu et al. 2020, figs. 3, 9"
    axes.figure.legend(handles, labels, title=title, loc="outside upper center", ncols=columns)


def _labelled(label: str, models: list[dict]) -> list[tuple[str, dict]]:
    if label and len(models) == 1:
        return [(label, models[0])]
    return [(f"{label}: {model['name']}" if label else model["name"], model) for model in models]


def _read(path) -> list[dict]:
    """The classifiers of a results file."""
    try:
        models = json.loads(Path(path).read_text())["models"]
        for model in models:
            if not (model["name"] and len(model["values"]) == len(model["converged"]) > 0):
                raise ValueError("no eigenvalues")
            np.asarray(model["values"], float)
            np.asarray(model["normalised"] or [], float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"a hessian.json of the study hessian is required. Received: {path} ({error!r})."
        ) from error
    return models
