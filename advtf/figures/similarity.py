"""Similarity of perturbations and robust error at θ ± a·v. Imports no TensorFlow."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D

from advtf.errors import UsageError
from advtf.figures.style import BLACK, RUN_COLORS, error_axis, sheet

LINES = {"eigenvector": "--", "random": "-"}  # as in the paper
LABELS = {"eigenvector": "v: top eigenvector", "random": "v: random"}
KEYS = ("offsets", "models", "splits", "directions", "similarity", "error", "between_starts")
SOURCE = "cf. Liu et al. 2020, Figs. 4 and 10"
NEIGHBOURHOOD = 30.0  # percent robust error; beyond it the paper's figure 10 ends


def perturbation_similarity(paths: Mapping[str, str | Path], output: str | Path) -> Path:
    """Draws mean cosine and robust error against a; cf. Liu et al. 2020, Figs. 4 and 10.

    Lines are means over the runs, bands one standard deviation to each side. Dotted is the cosine of attacks
    from two random starts at θ. A cosine is hollow where the robust training error has risen above 30 %,
    where the paper's figure 10 ends.

    Args:
        paths: similarity.npz by label, in the order of the legend; "" for one file without a label.
        output: .png, .pdf or .svg to write; its folder is made.

    Returns:
        `output`.

    Raises:
        UsageError: no file, one that is not such a file, files of different splits, or another suffix of
            `output`.
    """
    curves = [curve for label, path in paths.items() for curve in _curves(label, _read(path))]
    if not curves:
        raise UsageError("the figure needs at least one similarity.npz. Received: none.")
    splits = curves[0]["errors"]
    if any(curve["errors"].keys() != splits.keys() for curve in curves):
        raise UsageError("the files must be of the same splits. Received: one with train, one without.")
    looks = dict(
        zip(dict.fromkeys(curve["label"] for curve in curves), itertools.cycle(RUN_COLORS), strict=False)
    )
    with sheet(output, rows=1 + len(splits), height=0.9 + 1.35 * (1 + len(splits)), shared=False) as panels:
        for curve in curves:
            look = {"color": looks[curve["label"]], "linestyle": LINES[curve["direction"]]}
            _draw_cosine(panels[0], curve, look)
            for axes, values in zip(panels[1:], curve["errors"].values(), strict=True):
                _band(axes, curve["offsets"], values, look)
        first = next(iter(splits))
        panels[0].set_ylabel(f"cosine similarity,\n{first}")
        for axes, split in zip(panels[1:], splits, strict=True):
            error_axis(axes, f"robust error,\n{split} (%)")
        _finish(panels, looks, curves[0]["offsets"])
    return Path(output)


def _finish(panels, looks, offsets):
    for axes in panels:
        _offset_axis(axes, offsets)
        axes.tick_params(labelbottom=axes is panels[-1])
    low = min(panels[0].dataLim.y0, 0.0)
    panels[0].set_ylim(1.1 * low, 1.03)
    panels[-1].set_xlabel("distance a from θ along ±v")
    handles = [Line2D([], [], color=BLACK, linestyle=LINES[name], label=LABELS[name]) for name in LINES]
    hollow = {"marker": "o", "markerfacecolor": "white", "linestyle": ""}
    handles += [
        Line2D([], [], color=BLACK, linestyle=":", linewidth=0.8, label="two random starts at θ"),
        Line2D([], [], color=BLACK, label=f"train error > {NEIGHBOURHOOD:g} %", **hollow),
        *(Line2D([], [], color=color, label=label) for label, color in looks.items() if label),
    ]
    figure = panels[0].figure
    figure.legend(handles=handles, loc="outside upper center", ncols=2, title=SOURCE, title_fontsize=7)
    figure.align_ylabels(panels)


def _offset_axis(axes, offsets):
    """Linear from zero; logarithmic from the smallest positive length if they span more than a decade."""
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
    """One curve per model and direction: cosines (runs, A) of the first split, errors (runs, A) by split."""
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
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in KEYS}
    except Exception as error:  # damage shows as almost any exception of zipfile, zlib and NumPy
        raise UsageError(
            f"a similarity.npz is required. Received: {path} ({error}). Run --study=similarity."
        ) from error
