"""The house style of figures: a sheet of panels, its axes, legends and pictures. Imports no TensorFlow."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from advtf.errors import UsageError
from advtf.figures.display import displayable
from advtf.storage.files import write_atomically

WIDTH = 3.4  # inches: one column of a paper
FORMATS = (".png", ".pdf", ".svg")
# Okabe & Ito's palette, told apart with any colour vision; its yellow is left out: too pale for lines.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
RUN_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "#DDDDDD",
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "savefig.dpi": 200,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}


@contextmanager
def sheet(
    output: str | Path, *, rows: int, height: float, columns: int = 1, shared: bool = True
) -> Iterator[list[Axes]]:
    """Opens a figure of column width in the house style, and writes it when the block ends without error.

    Args:
        output: .png, .pdf or .svg; replaced atomically.
        rows, columns: panels.
        height: inches.
        shared: panels share an epoch axis, labelled below the last.

    Yields:
        The panels, row by row.
    """
    output = Path(output)
    if output.suffix not in FORMATS:
        raise UsageError(f"a figure's file must end in {', '.join(FORMATS)}. Received: output={output}.")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=shared, squeeze=False).ravel().tolist()
        yield panels
        if shared:
            panels[-1].set_xlabel("epoch")
            panels[-1].set_xlim(left=0)
            panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
            figure.align_ylabels(panels)
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, lambda file: figure.savefig(file, format=output.suffix[1:]))


def scale_rate(axes: Axes, rates: np.ndarray) -> None:
    """Logarithmic when positive rates span more than a factor of ten, linear from zero otherwise."""
    if len(rates) and rates.min() > 0 and rates.max() > 10 * rates.min():
        axes.set_yscale("log")
    else:
        from_zero(axes)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


def error_axis(axes: Axes, label: str) -> None:
    """Linear from zero; logarithmic above 1% when errors span a decade, or the end of a run would be flat."""
    axes.set_ylabel(label)
    low, high = axes.dataLim.intervaly
    if not high > 10 * low:  # also without data, where the limits are infinite
        from_zero(axes)
        return
    axes.set_yscale("symlog", linthresh=1, linscale=0.4)
    axes.set_yticks([0, 1, 2, 5, 10, 20, 50, 100], labels=["0", "1", "2", "5", "10", "20", "50", "100"])
    axes.set_ylim(0 if low < 1 else 0.8 * low, 1.2 * high)


def from_zero(axes: Axes) -> None:
    """Linear from zero to a little above what was drawn."""
    high = axes.dataLim.y1
    axes.set_ylim(0, 1.08 * high if 0 < high < np.inf else 1)


def legend(axes: Axes, looks: Mapping[str, tuple[str, str]]) -> None:
    """Puts a legend above the panel, where it cannot hide a curve."""
    handles = [
        Line2D([], [], color=color, linestyle=line, label=label) for label, (color, line) in looks.items()
    ]
    columns = 4 if max(map(len, looks)) <= 8 else 2
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        borderaxespad=0.2,
        handlelength=1.8,
    )


def show_picture(axes: Axes, image: np.ndarray) -> None:
    """Shows one image (H,W,C) in [0,1] without smoothing, in a hairline: white borders end somewhere too."""
    axes.imshow(displayable(image[None])[0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(True)
    axes.spines[:].set(linewidth=0.3, color="0.6")


def show_verdict(axes: Axes, label: int, prediction: int) -> None:
    """Titles a panel true → predicted class, in red if they differ."""
    color = BLACK if prediction == label else VERMILLION
    axes.set_title(f"{label} → {prediction}", fontsize=7, color=color, pad=2)
