"""Spectral densities of Hessians, on a logarithmic scale. Imports no TensorFlow."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.patches import Patch

from advtf.figures.results import conditions, curve_labels, read_arrays, require_some
from advtf.figures.style import BLACK, Heading, legend_above, line_handles, run_looks, sheet
from advtf.landscape.density import covering_grid, kernel_width, smooth

FIELDS = ("models", "dimensions", "nodes", "weights")


def spectral_densities(paths_by_label: Mapping[str, str | Path], output: str | Path) -> Path:
    """Draws the densities φ(λ) of the Hessians of one or more classifiers; cf. Ghorbani et al. 2019.

    One kernel smooths all of them; its width is 1/200 of the whole range. A single eigenvalue among n is then
    a peak of height 1/(n·width·√(2π)); a dotted line marks this height, and the axis ends a decade below it.
    Bands are ± 1 standard error over the probes.

    Args:
        paths_by_label: label of a curve -> density.npz of the study ``density``. A file of several
            classifiers has a curve for each, labelled with its name after that of the file.
        output: .png, .pdf or .svg file to write; its folder is made.

    Returns:
        `output`.

    Raises:
        UsageError: there is no file, one is no density.npz, or `output` has another suffix.
    """
    require_some(paths_by_label, "density.npz")
    spectra = [each for label, path in paths_by_label.items() for each in _labelled(label, _read(path))]
    labels, dimensions, nodes, weights = zip(*spectra, strict=True)
    every = np.concatenate([each.ravel() for each in nodes])
    width = kernel_width(every)
    grid = covering_grid(every, width)
    single = 1 / (max(dimensions) * width * np.sqrt(2 * np.pi))
    looks = list(run_looks(range(len(labels))).values())  # by number, as labels may be equal
    told = conditions(paths_by_label.values()).only("train", "test")
    title = "Density of the eigenvalues of the Hessian of the loss in the weights"
    heading = Heading(title, str(told), "cf. Ghorbani et al. 2019")
    with sheet(output, heading, rows=1, height=2.3, shared=False) as (axes,):
        tops = [
            _curve(axes, grid, smooth(*pair, grid, width), look, lowest=single / 100)
            for *pair, look in zip(nodes, weights, looks, strict=True)
        ]
        axes.axhline(single, color=BLACK, linestyle=":", linewidth=0.7)
        axes.set_yscale("log")
        axes.set_ylim(single / 10, 3 * max(tops))
        axes.margins(x=0.01)
        axes.set_xlabel("eigenvalue λ (nats)")
        axes.set_ylabel("density of eigenvalues\n(1/nats, log scale)")
        handles = [line_handles({label: look})[0] for label, look in zip(labels, looks, strict=True)]
        marks = line_handles({"height of one eigenvalue": (BLACK, ":")})
        marks.append(Patch(color="0.6", alpha=0.5, linewidth=0, label="± 1 standard error"))
        legend_above(axes, handles, marks)
    return Path(output)


def _curve(axes, grid, density, look, lowest):
    """Draws a density with its standard error, and returns its maximum."""
    height, error, (color, line) = density.mean, density.standard_error, look
    # Below the height of one eigenvalue there are only tails of the kernel: they are cut just off the axis.
    axes.plot(grid, np.maximum(height, lowest), color=color, linestyle=line, linewidth=0.9)
    if np.isfinite(error).all():
        low, high = (np.maximum(height + sign * error, lowest) for sign in (-1, 1))
        axes.fill_between(grid, low, high, color=color, alpha=0.25, linewidth=0)
    return height.max()


def _labelled(label, arrays):
    """Yields the label, the number of weights, and the nodes and weights of each classifier of a file."""
    columns = (arrays[name] for name in ("dimensions", "nodes", "weights"))
    return zip(curve_labels(label, arrays["models"].tolist()), *columns, strict=True)


def _read(path):
    return read_arrays(path, FIELDS, "a density.npz of the study density")
