"""Loss and error along the path between minima. Imports no TensorFlow."""

from collections.abc import Mapping
from pathlib import Path

from advtf.figures.results import conditions, read_arrays, require_some, required
from advtf.figures.style import (
    BLUE,
    RUN_COLORS,
    VERMILLION,
    Heading,
    from_zero,
    legend_above,
    line_handles,
    sheet,
    short_label,
)

PANELS = {
    "train_loss": "adversarial\ntraining loss (nats)",
    "test_error": "robust test\nerror (%)",
    "test_clean_error": "clean test\nerror (%)",
}
TITLE = "Loss and error along the paths between trained classifiers"
SOURCE = "cf. Liu et al. 2020, Fig. 15"


def path_between_minima(paths: Mapping[str, str | Path], output: str | Path) -> Path:
    """Draws training loss, robust and clean test error along trained curves; cf. Liu et al. 2020, Fig. 15.

    A single result is shown with the straight lines between its models; several results are compared by
    their curves. A result of k models has them at t = 0, 1, ..., k − 1.

    Args:
        paths: connectivity.npz by label, in the order of the legend; a single one needs no label.
        output: .png, .pdf or .svg file to write; its folder is made.

    Returns:
        `output`.

    Raises:
        UsageError: there is no file, one is no connectivity.npz, or `output` has another suffix.
    """
    require_some(paths, "connectivity.npz")
    results = {label: _read(path) for label, path in paths.items()}
    drawn = _looks(results)
    heading = Heading(TITLE, str(conditions(paths.values())), SOURCE)
    with sheet(output, heading, rows=len(PANELS), height=4.2, shared=False) as panels:
        for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
            for result, kind, color, line in drawn.values():
                _plot(axes, result[f"{kind}_{name}"], result["t"], color, line)
            axes.set_ylabel(title)
            from_zero(axes)
            _mark_models(axes, max(len(result["curve_train_loss"]) for result in results.values()))
        for axes in panels[:-1]:
            axes.tick_params(labelbottom=False)
        panels[-1].set_xlabel(_axis_label(list(results.values())), fontsize=7)
        panels[-1].figure.align_ylabels(panels)
        looks = {label: (color, line) for label, (_, _, color, line) in drawn.items()}
        legend_above(panels[0], line_handles(looks))
    return Path(output)


def _axis_label(results):
    """Names the position on the path, and where it is one path, the classifiers on it."""
    if len(results) > 1:
        return "position t on the path\n(a classifier at each whole number)"
    names = [f"{number}: {short_label(name)}" for number, name in enumerate(results[0]["names"].tolist())]
    return "\n".join(["position t on the path, with the classifiers at", *names])


def _looks(results):
    """Returns for each label (result, "curve" or "line", colour, line style)."""
    if len(results) > 1:
        return {
            label: (result, "curve", RUN_COLORS[number % len(RUN_COLORS)], "-")
            for number, (label, result) in enumerate(results.items())
        }
    (result,) = results.values()
    return {
        "trained curve": (result, "curve", BLUE, "-"),
        "straight line": (result, "line", VERMILLION, "--"),
    }


def _plot(axes, values, t, color, line):
    """Draws curve k, a row of `values`, over [k, k + 1]."""
    for number, row in enumerate(values):
        axes.plot(number + t, row, color=color, linestyle=line, clip_on=False)


def _mark_models(axes, curves):
    axes.set_xlim(0, curves)
    axes.margins(x=0)
    if curves > 1:
        axes.set_xticks(range(curves + 1))
        axes.vlines(range(1, curves), 0, 1, transform=axes.get_xaxis_transform(), color="0.5", linewidth=0.6)


def _read(path):
    names = [f"{kind}_{name}" for kind in ("curve", "line") for name in PANELS]
    kind, remedy = "a connectivity.npz", "Run python -m advtf.analyze --study=connectivity."
    result = read_arrays(path, ("t", "epsilon", "names", *names), kind, remedy)
    with required(path, kind, remedy):
        if any(result[name].shape != (len(result[names[0]]), len(result["t"])) for name in names):
            raise ValueError("shapes differ")
    return result
