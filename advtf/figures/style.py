"""The house style of figures: a sheet of panels, their axes, legends and images. Imports no TensorFlow."""

import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from advtf.errors import UsageError
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
RADIUS_LABELS = {"linf": "ε (l∞, pixels in [0, 1])", "l2": "ε (l2, pixels in [0, 1])"}
MARKED_POINTS = 12  # up to which single points of a curve are marked; a point alone would have no line at all
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

    pyplot is not used, so its state and the open figures of a notebook stay as they are.

    Args:
        output: .png, .pdf or .svg file; it is replaced as a whole.
        rows: number of rows of panels.
        height: in inches.
        columns: number of columns of panels. Defaults to 1.
        shared: whether the panels share an epoch axis, which is labelled below the last. Defaults to True.

    Yields:
        The panels, row by row.

    Raises:
        UsageError: another suffix of `output`.
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


def log_axis(axis: Axis) -> None:
    """Makes an axis logarithmic with a few readable ticks; to be called when everything is drawn.

    Ticks are at 1, 2 and 5 times powers of ten, at 1 and 3 times where the limits span two decades and at
    powers of ten alone where they span three, and at round numbers where they span less than a factor of
    four, which may hold none of the others. They are written as numbers where these are short, else as powers
    of ten.
    """
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    if high < 4 * low:
        axis.set_major_locator(MaxNLocator(4))
    else:
        factors = (1, 2, 5) if high < 100 * low else (1, 3) if high < 1000 * low else (1,)
        axis.set_major_locator(LogLocator(subs=factors))
    if low >= 1e-4 and high <= 1e5:
        axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def scale_rate(axes: Axes, rates: np.ndarray) -> None:
    """Makes an axis of learning rates logarithmic where they span more than a factor of ten, else linear."""
    if len(rates) and rates.min() > 0 and rates.max() > 10 * rates.min():
        axes.set_yscale("log")
    else:
        from_zero(axes)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


def error_axis(axes: Axes, label: str) -> None:
    """Labels an axis of errors in percent and starts it at zero.

    It is logarithmic above 1 % where errors span a decade, as the end of a run would be flat otherwise.
    """
    axes.set_ylabel(label)
    low, high = axes.dataLim.intervaly
    if not high > 10 * low:  # also without data, where the limits are infinite
        from_zero(axes)
        return
    axes.set_yscale("symlog", linthresh=1, linscale=0.4)
    axes.set_yticks([0, 1, 2, 5, 10, 20, 50, 100], labels=["0", "1", "2", "5", "10", "20", "50", "100"])
    axes.set_ylim(0 if low < 1 else 0.8 * low, 1.2 * high)


def from_zero(axes: Axes) -> None:
    """Sets the limits of an axis to zero and a little above what was drawn."""
    high = axes.dataLim.y1
    axes.set_ylim(0, 1.08 * high if 0 < high < np.inf else 1)


def legend(axes: Axes, looks: Mapping[str, tuple[str, str]]) -> None:
    """Puts a legend above the panel, where it cannot hide a curve."""
    columns = 4 if max(map(len, looks)) <= 8 else 2
    axes.legend(
        handles=line_handles(looks),
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        borderaxespad=0.2,
        handlelength=1.8,
    )


def run_looks(runs: Iterable[Hashable]) -> dict[Hashable, tuple[str, str]]:
    """Returns a colour and a line style for each run; solid lines in all colours come before dashed ones."""
    looks = itertools.cycle(itertools.product(("-", "--", ":"), RUN_COLORS))
    return {run: (color, line) for run, (line, color) in zip(runs, looks, strict=False)}


def line_handles(looks: Mapping[str, tuple[str, str]]) -> list[Line2D]:
    """Returns the entries of a legend from the colour and line style of each label."""
    return [
        Line2D([], [], color=color, linestyle=line, label=label) for label, (color, line) in looks.items()
    ]


def legend_above(axes: Axes, handles: Sequence[Artist], title: str, columns: int | None = None) -> None:
    """Puts one legend with a title above all panels of the figure that `axes` belongs to.

    Args:
        axes: a panel.
        handles: labelled artists.
        title: such as the figure of the paper to compare with; it is set in small type, lines centred.
        columns: number of columns. Defaults to as many as the longest label leaves room for, at most five.
    """
    narrow = {}
    if columns is None:
        longest = max(len(handle.get_label()) for handle in handles)
        columns = max(
            1, min(5, 60 // (5 + longest))
        )  # 60 letters fill the width; a handle is as wide as five
        narrow = {"handlelength": 1.2, "columnspacing": 1}
    made = axes.figure.legend(
        handles=handles, title=title, title_fontsize=7, loc="outside upper center", ncols=columns, **narrow
    )
    made.get_title().set_multialignment("center")


def amplified(perturbation: np.ndarray) -> tuple[np.ndarray, float]:
    """Stretches perturbations over the whole grey range: 1/2 + k δ with k = 1/(2 max|δ|).

    Args:
        perturbation: δ = adversarial - clean, any shape.

    Returns:
        The stretched values in [0,1], 1/2 where δ = 0, and the factor k (1 when δ is 0 everywhere).
    """
    largest = float(np.max(np.abs(perturbation), initial=0.0))
    factor = 0.5 / largest if largest > 0 else 1.0
    return np.clip(0.5 + factor * perturbation, 0.0, 1.0), factor


def displayable(images: np.ndarray) -> np.ndarray:
    """Clips (N,H,W,C) to [0,1]; grey and RGB keep their channels, any other count is averaged to grey."""
    if images.shape[-1] not in (1, 3):
        images = images.mean(axis=-1, keepdims=True)
    return np.clip(images, 0.0, 1.0)


def picture_size(count: int) -> float:
    """Returns the side in inches of square pictures, `count` of which stand in a row beside their label."""
    return (WIDTH - 0.7) / max(count, 3) - 0.08


def point_marker(count: int) -> str:
    """Returns the marker of a curve of so many points, "" for none."""
    return "o" if count <= MARKED_POINTS else ""


def show_picture(axes: Axes, image: np.ndarray) -> None:
    """Shows one image (H,W,C) in [0,1] without smoothing, in a thin frame that gives white an edge."""
    axes.imshow(displayable(image[None])[0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(True)
    axes.spines[:].set(linewidth=0.3, color="0.6")


def show_verdict(axes: Axes, label: int, prediction: int) -> None:
    """Titles a panel true → predicted class, in red if they differ."""
    color = BLACK if prediction == label else VERMILLION
    axes.set_title(f"{label} → {prediction}", fontsize=7, color=color, pad=2)
