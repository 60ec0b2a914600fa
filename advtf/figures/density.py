"""Spectral densities of Hessians, on a logarithmic scale. Imports no TensorFlow."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D

from advtf.errors import UsageError
from advtf.figures.style import BLACK, RUN_COLORS, sheet
from advtf.landscape.density import covering_grid, kernel_width, smooth

FIELDS = ("models", "dimensions", "nodes", "weights")
LINES = ("-", "--", ":")


def spectral_densities(paths_by_label: Mapping[str, str | Path], output: str | Path) -> Path:
    """Draws the densities φ(λ) of the Hessians of one or more classifiers; cf. Ghorbani et al. 2019.

    One kernel smooths all of them, 1/200 of the whole range wide. A single eigenvalue among n is then a peak
    of height 1/(n·width·√(2π)): a dotted line marks it, and the axis ends a decade below. Bands are ± 1
    standard error over probes.

    Args:
        paths_by_label: label of a curve -> density.npz of the study ``density``. A file of several
            classifiers makes a curve of each, with its name behind the label.
        output: .png, .pdf or .svg to write; its folder is made.

    Returns:
        `output`.

    Raises:
        UsageError: no file, one that cannot be read or is no such file, or another suffix of `output`.
    """
    if not paths_by_label:
        raise UsageError("spectral_densities needs at least one density.npz. Received: none.")
    spectra = [each for label, path in paths_by_label.items() for each in _labelled(label, _read(path))]
    labels, dimensions, nodes, weights = zip(*spectra, strict=True)
    every = np.concatenate([each.ravel() for each in nodes])
    width = kernel_width(every)
    grid = covering_grid(every, width)
    single = 1 / (max(dimensions) * width * np.sqrt(2 * np.pi))
    looks = [(RUN_COLORS[n % len(RUN_COLORS)], LINES[n // len(RUN_COLORS) % 3]) for n in range(len(labels))]
    with sheet(output, rows=1, height=2.6, shared=False) as (axes,):
        tops = [
            _curve(axes, grid, smooth(*pair, grid, width), look, lowest=single / 100)
            for *pair, look in zip(nodes, weights, looks, strict=True)
        ]
        _mark(axes, single)
        axes.set_yscale("log")
        axes.set_ylim(single / 10, 3 * max(tops))
        axes.margins(x=0.01)
        axes.set_xlabel("eigenvalue $\\lambda$ of $\\nabla^2_\\theta L_\\epsilon$ (nats)")
        axes.set_ylabel("density $\\varphi(\\lambda)$ (1/nats)")
        handles = [Line2D([], [], color=color, linestyle=line) for color, line in looks]
        title = "spectral density, cf. Ghorbani et al. 2019"
        columns = 3 if max(map(len, labels)) <= 12 else 1
        axes.figure.legend(
            handles, labels, title=title, title_fontsize=7, loc="outside upper center", ncols=columns
        )
    return Path(output)


def _curve(axes, grid, density, look, lowest):
    """Draws a density with its standard error, and returns its maximum."""
    height, error, (color, line) = density.mean, density.standard_error, look
    # Below one eigenvalue there are only tails of the kernel; cut, curves reach the axis and end there.
    axes.plot(grid, np.maximum(height, lowest), color=color, linestyle=line, linewidth=0.9)
    if np.isfinite(error).all():
        low, high = (np.maximum(height + sign * error, lowest) for sign in (-1, 1))
        axes.fill_between(grid, low, high, color=color, alpha=0.25, linewidth=0)
    return height.max()


def _mark(axes, single):
    axes.axhline(single, color=BLACK, linestyle=":", linewidth=0.7)
    axes.annotate(
        "one eigenvalue",
        (1, single),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        fontsize=7,
    )


def _labelled(label, arrays):
    names, several = arrays["models"].tolist(), len(arrays["models"]) > 1
    for number, name in enumerate(names):
        whole = label if label and not several else f"{label}: {name}" if label else name
        yield whole, arrays["dimensions"][number], arrays["nodes"][number], arrays["weights"][number]


def _read(path):
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in FIELDS}
    except Exception as error:  # damage shows as almost any exception of zipfile, zlib and NumPy
        raise UsageError(
            f"a density.npz of the study density is required. Received: {path} ({error})."
        ) from error
