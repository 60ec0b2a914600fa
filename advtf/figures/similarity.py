"""Similarity of perturbations and robust error at θ ± a·v. Imports no TensorFlow."""

import itertools
from collections.abc import Mapping
from pathlib import Path

from matplotlib.lines import Line2D

from advtf.errors import UsageError
from advtf.figures.results import SPLIT_NAMES, conditions, read_arrays, require_some
from advtf.figures.style import (
    BLACK,
    RUN_COLORS,
    Heading,
    color_handles,
    error_axis,
    legend_above,
    line_handles,
    sheet,
)

LINES = {"eigenvector": "--", "random": "-"}  # as in the paper
LABELS = {"eigenvector": "v the top eigenvector", "random": "v random"}
KEYS = ("offsets", "models", "splits", "directions", "similarity", "error", "between_starts")
SOURCE = "cf. Liu et al. 2020, Figs. 4 and 10"
NEIGHBOURHOOD = 30.0  # percent robust error, at which the paper's figure 10 ends


def perturbation_similarity(paths: Mapping[str, str | Path], output: str | Path) -> Path:
    """Draws the mean cosine and the robust error against a; cf. Liu et al. 2020, Figs. 4 and 10.

    Lines are means over the runs, and bands are one standard deviation to each side. The dotted line is the
    cosine of attacks from two random starts at θ. The marker of a cosine is hollow where the robust training
    error has risen above 30 %, where the paper's figure 10 ends.

    Args:
        paths: similarity.npz by label, in the order of the legend; "" for one file without a label.
        output: .png, .pdf or .svg file to write; its folder is made.

    Returns:
        `output`.

    Raises:
        UsageError: there is no file, one is no similarity.npz, the files are of different splits, or `output`
            has another suffix.
    """
    require_some(paths, "similarity.npz")
    curves = [curve for label, path in paths.items() for curve in _curves(label, _read(path))]
    splits = curves[0]["errors"]
    if any(curve["errors"].keys() != splits.keys() for curve in curves):
        raise UsageError("the files must be of the same splits. Received: one with train, one without.")
    looks = dict(
        zip(dict.fromkeys(curve["label"] for curve in curves), itertools.cycle(RUN_COLORS), strict=False)
    )
    title = "Adversarial perturbations at the weights θ + a·v and θ − a·v: their cosine, and the error"
    heading = Heading(title, str(conditions(paths.values())), SOURCE)
    height = 0.3 + 1.35 * (1 + len(splits))
    with sheet(output, heading, rows=1 + len(splits), height=height, shared=False) as panels:
        for curve in curves:
            look = {"color": looks[curve["label"]], "linestyle": LINES[curve["direction"]]}
            _draw_cosine(panels[0], curve, look)
            for axes, values in zip(panels[1:], curve["errors"].values(), strict=True):
                _band(axes, curve["offsets"], values, look)
        first = next(iter(splits))
        panels[0].set_ylabel(f"cosine of the\nperturbations,\n{SPLIT_NAMES[first]} images")
        for axes, split in zip(panels[1:], splits, strict=True):
            error_axis(axes, f"robust error,\n{SPLIT_NAMES[split]} images (%)")
        _finish(panels, looks, curves[0]["offsets"])
    return Path(output)


def _finish(panels, looks, offsets):
    for axes in panels:
        _offset_axis(axes, offsets)
        axes.tick_params(labelbottom=axes is panels[-1])
    low = min(panels[0].dataLim.y0, 0.0)
    panels[0].set_ylim(1.1 * low, 1.03)
    scale = ", log scale" if panels[-1].get_xscale() == "symlog" else ""
    panels[-1].set_xlabel(f"distance a from θ (l2 norm{scale})")
    classifiers = color_handles({label: color for label, color in looks.items() if label})
    handles = line_handles({LABELS[name]: (BLACK, LINES[name]) for name in LINES})
    hollow = {"marker": "o", "markerfacecolor": "white", "linestyle": ""}
    handles += [
        Line2D([], [], color=BLACK, linestyle=":", linewidth=0.8, label="two random starts at θ"),
        Line2D([], [], color=BLACK, label=f"training error above {NEIGHBOURHOOD:g} %", **hollow),
    ]
    legend_above(panels[0], classifiers, handles, columns=2)
    panels[0].figure.align_ylabels(panels)


def _offset_axis(axes, offsets):
    """Starts an axis of lengths at zero; from the smallest one on it is logarithmic if they span a decade."""
    positive = offsets[offsets > 0]
    if positive.size and positive[-1] > 10 * positive[0]:
        axes.set_xscale("symlog", linthresh=positive[0], linscale=0.5)
        axes.set_xticks(offsets, labels=[f"{offset:g}" for offset in offsets], rotation=45)
        axes.set_xticks([], minor=True)
    axes.set_xlim(0, max(offsets[-1], 1e-12))


def _draw_cosine(axes, curve, look):
    offsets, mean = curve["offsets"], curve["similarity"].mean(axis=0)
    _band(axes, offsets, curve["similarity"], look)
    errors = next(iter(curve["errors"].values())).mean(axis=0)
    beyond = (errors > NEIGHBOURHOOD) & (errors[0] <= NEIGHBOURHOOD)
    axes.axhline(curve["between_starts"], color=look["color"], linestyle=":", linewidth=0.8)
    for where, fill in ((~beyond, look["color"]), (beyond, "white")):
        if where.any():  # an empty line has no extent, from which the layout cannot recover
            marks = {"marker": "o", "markerfacecolor": fill, "linestyle": "", "color": look["color"]}
            axes.plot(offsets[where], mean[where], zorder=4, clip_on=False, **marks)


def _band(axes, offsets, values, look):
    mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1) if len(values) > 1 else 0
    axes.plot(offsets, mean, clip_on=False, zorder=3, **look)
    axes.fill_between(offsets, mean - spread, mean + spread, color=look["color"], alpha=0.2, linewidth=0)


def _curves(label, data):
    """Yields a curve for each model and direction: cosines (runs, A) of the first split, errors by split."""
    models = data["models"].tolist()
    for m, d in itertools.product(range(len(models)), range(len(data["directions"]))):
        named = models[m] if len(models) > 1 else ""
        errors = data["error"][m, :, :, d].mean(axis=2)  # of both signs
        yield {
            "label": " ".join(part for part in (label, named) if part),
            "direction": str(data["directions"][d]),
            "offsets": data["offsets"],
            "similarity": data["similarity"][m, 0, :, d],
            "between_starts": data["between_starts"][m, 0].mean(),
            "errors": dict(zip(data["splits"].tolist(), errors, strict=True)),
        }


def _read(path):
    return read_arrays(path, KEYS, "a similarity.npz", "Run --study=similarity.")
