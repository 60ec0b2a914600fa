"""Loss and error along the path between minima. Imports no TensorFlow."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from advtf.errors import UsageError
from advtf.figures.style import BLUE, RUN_COLORS, VERMILLION, from_zero, legend, sheet
from advtf.settings.fields import format_epsilon

PANELS = {
    "train_loss": "training loss\n$L_\\epsilon$ (nats)",
    "test_error": "robust test\nerror (%)",
    "test_clean_error": "clean test\nerror (%)",
}
AXIS = "position $t$ on the path (cf. Liu et al. 2020, Fig. 15)"


def path_between_minima(paths: Mapping[str, str | Path], output: str | Path) -> Path:
    """Draws training loss, robust and clean test error along trained curves; cf. Liu et al. 2020, Fig. 15.

    One result is shown with the straight lines between its models, several are compared by their curves. A
    result of k models has them at t = 0, 1, ..., k − 1.

    Args:
        paths: connectivity.npz by label, in the order of the legend; a single one needs no label.
        output: .png, .pdf or .svg to write; its folder is made.

    Returns:
        `output`.

    Raises:
        UsageError: no result, a file that is none, or another suffix of `output`.
    """
    if not paths:
        raise UsageError("the figure needs at least one connectivity.npz. Received: none.")
    results = {label: _read(path) for label, path in paths.items()}
    drawn = _looks(results)
    with sheet(output, rows=len(PANELS), height=4.4, shared=False) as panels:
        for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
            for result, kind, color, line in drawn.values():
                _plot(axes, result[f"{kind}_{name}"], result["t"], color, line)
            axes.set_ylabel(title)
            from_zero(axes)
            _mark_models(axes, max(len(result["curve_train_loss"]) for result in results.values()))
        for axes in panels[:-1]:
            axes.tick_params(labelbottom=False)
        panels[-1].set_xlabel(AXIS)
        panels[-1].figure.align_ylabels(panels)
        legend(panels[0], {label: (color, line) for label, (_, _, color, line) in drawn.items()})
    return Path(output)


def _looks(results):
    """(result, "curve" or "line", colour, line style) by label."""
    if len(results) > 1:
        return {
            label: (result, "curve", RUN_COLORS[number % len(RUN_COLORS)], "-")
            for number, (label, result) in enumerate(results.items())
        }
    (result,) = results.values()
    epsilon = format_epsilon(float(result["epsilon"]))
    return {
        f"trained curve, ε = {epsilon}": (result, "curve", BLUE, "-"),
        "straight line": (result, "line", VERMILLION, "--"),
    }


def _plot(axes, values, t, color, line):
    """Curve k, a row of `values`, over [k, k + 1]."""
    for number, row in enumerate(values):
        axes.plot(number + t, row, color=color, linestyle=line)


def _mark_models(axes, curves):
    axes.set_xlim(0, curves)
    axes.margins(x=0)
    if curves > 1:
        axes.set_xticks(range(curves + 1))
        axes.vlines(range(1, curves), 0, 1, transform=axes.get_xaxis_transform(), color="0.5", linewidth=0.6)


def _read(path):
    names = [f"{kind}_{name}" for kind in ("curve", "line") for name in PANELS]
    try:
        with np.load(path, allow_pickle=False) as archive:
            result = {name: archive[name] for name in ("t", "epsilon", *names)}
        if any(result[name].shape != (len(result[names[0]]), len(result["t"])) for name in names):
            raise ValueError("shapes differ")
    except Exception as error:  # damage shows as almost any exception of zipfile, zlib and NumPy
        raise UsageError(
            f"a connectivity.npz is required. Received: {path} ({error}). "
            "Run python -m advtf.analyze --study=connectivity."
        ) from error
    return result
