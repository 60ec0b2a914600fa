"""The house style of figures: a sheet of panels, its heading, axes, legend and images. No TensorFlow."""

import itertools
import math
import textwrap
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import BboxBase, ScaledTranslation, Transform

from advtf.errors import UsageError
from advtf.storage.files import versions, write_atomically

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
SYMLOG_ABOVE_ONE = "(log scale above 1 %)"
LONGEST_LABEL = 44  # letters of a classifier's name; the middle of a longer one is left out
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


@dataclass(frozen=True)
class Heading:
    """What stands above a figure, so that it can be understood away from its page.

    Attributes:
        title: what is shown, in words that need no paper.
        about: of what: the data, the number of images, the attack and its ε, as
            `advtf.figures.results.Conditions` tells them. Defaults to nothing.
        source: the figure of a paper to compare with. Defaults to none.
    """

    title: str
    about: str = ""
    source: str = ""

    def lines(self) -> list[tuple[str, dict]]:
        """Returns the lines of text, each broken to the width of the figure, with their looks."""
        parts = (
            (self.title, 50, {"fontsize": 8, "fontweight": "bold"}),
            (self.about.replace("ε = ", "ε\u00a0=\u00a0"), 64, {"fontsize": 7}),  # which stays on one line
            (self.source, 70, {"fontsize": 6, "color": "0.35"}),
        )
        return [(line, look) for text, width, look in parts for line in textwrap.wrap(text, width)]


@contextmanager
def sheet(
    output: str | Path,
    heading: Heading = Heading(""),
    *,
    rows: int,
    height: float,
    columns: int = 1,
    shared: bool = True,
) -> Iterator[list[Axes]]:
    """Opens a figure of column width in the house style, and writes it when the block ends without error.

    pyplot is not used, so its state and the open figures of a notebook stay as they are. The heading is also
    written into the file as its metadata.

    Args:
        output: .png, .pdf or .svg file; it is replaced as a whole.
        heading: what stands above the panels. Defaults to nothing, but a figure should say what it shows.
        rows: number of rows of panels.
        height: of the panels in inches; that of the heading and the legend is added.
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
        headed = _write_heading(figure, heading)
        panels = figure.subplots(rows, columns, sharex=shared, squeeze=False).ravel().tolist()
        yield panels
        if shared:
            panels[-1].set_xlabel("epoch")
            panels[-1].set_xlim(left=0)
            panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
            figure.align_ylabels(panels)
        _make_room(figure, headed)
        output.parent.mkdir(parents=True, exist_ok=True)
        form = output.suffix[1:]
        write_atomically(
            output, lambda file: figure.savefig(file, format=form, metadata=_metadata(form, heading))
        )


def _write_heading(figure: Figure, heading: Heading) -> float:
    """Writes the heading at the top of the figure, and returns its height in inches."""
    below = 0.03
    for line, look in heading.lines():
        figure.text(0.012, 1, line, va="top", transform=_below_top(figure, below), **look)
        below += 1.25 * look["fontsize"] / 72
    return below + 0.03


def _make_room(figure: Figure, headed: float) -> None:
    """Moves the legend below the heading, and makes the figure higher by both: panels keep their size."""
    room = headed
    for legend in figure.legends:
        legend.set_bbox_to_anchor((0.006, 1), transform=_below_top(figure, room))
        room += _size(figure, legend).height / figure.dpi
    room += 0.06 if figure.legends else 0
    height = figure.get_figheight() + room
    figure.set_figheight(height)
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - room / height))


def _size(figure: Figure, artist: Artist) -> BboxBase:
    return artist.get_window_extent(FigureCanvasAgg(figure).get_renderer())


def _below_top(figure: Figure, inches: float) -> Transform:
    """Returns the coordinates of the figure, shifted down by a length that its height does not change."""
    return figure.transFigure + ScaledTranslation(0, -inches, figure.dpi_scale_trans)


def _metadata(form: str, heading: Heading) -> dict[str, str | None]:
    """Returns the heading under a format's names; it has no date, so that equal data give equal files."""
    about = "; ".join(part for part in (heading.about, heading.source) if part)
    maker = f"advtf {versions()['advtf']}"
    if form == "pdf":
        return {"Title": heading.title, "Subject": about, "Creator": maker, "CreationDate": None}
    if form == "svg":
        return {"Title": heading.title, "Description": about, "Creator": maker, "Date": None}
    return {"Title": heading.title, "Description": about, "Software": maker}


def log_axis(axis: Axis) -> None:
    """Makes an axis logarithmic with a few readable ticks; to be called when everything is drawn.

    Ticks are at 1, 2 and 5 times powers of ten, at 1 and 3 times where the limits span two decades and at
    powers of ten alone where they span three, and at round numbers where they span less than a factor of
    four, which may hold none of the others. They are written as numbers where these are short, else as powers
    of ten. An axis of which nothing is above zero stays linear.
    """
    if not np.isfinite(axis.get_minpos()):
        return
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
    """Makes an axis of learning rates logarithmic where they span more than a factor of ten, and says so."""
    if len(rates) and rates.min() > 0 and rates.max() > 10 * rates.min():
        axes.set_yscale("log")
        axes.set_ylabel(f"{axes.get_ylabel()}\n(log scale)")
    else:
        from_zero(axes)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


def error_axis(axes: Axes, label: str) -> None:
    """Labels an axis of errors in percent and starts it at zero.

    It is logarithmic above 1 % where errors span a decade and exceed 2 %, as the end of a run would be flat
    otherwise; the label then says so.
    """
    axes.set_ylabel(label)
    low, high = axes.dataLim.intervaly
    if not high > max(10 * low, 2):  # also without data, where the limits are infinite
        from_zero(axes)
        return
    axes.set_ylabel(f"{label}\n{SYMLOG_ABOVE_ONE}")
    axes.set_yscale("symlog", linthresh=1, linscale=0.4)
    axes.set_yticks([0, 1, 2, 5, 10, 20, 50, 100], labels=["0", "1", "2", "5", "10", "20", "50", "100"])
    axes.set_ylim(0 if low < 1 else 0.8 * low, 1.2 * high)


def from_zero(axes: Axes) -> None:
    """Sets the limits of an axis to zero and a little above what was drawn."""
    high = axes.dataLim.y1
    axes.set_ylim(0, 1.08 * high if 0 < high < np.inf else 1)


def run_looks(runs: Iterable[Hashable]) -> dict[Hashable, tuple[str, str]]:
    """Returns a colour and a line style for each run; solid lines in all colours come before dashed ones."""
    looks = itertools.cycle(itertools.product(("-", "--", ":"), RUN_COLORS))
    return {run: (color, line) for run, (line, color) in zip(runs, looks, strict=False)}


def line_handles(looks: Mapping[str, tuple[str, str]]) -> list[Line2D]:
    """Returns the entries of a legend from the colour and line style of each label."""
    return [
        Line2D([], [], color=color, linestyle=line, label=label) for label, (color, line) in looks.items()
    ]


def color_handles(colors: Mapping[str, str]) -> list[Patch]:
    """Returns the entries of a legend for colours that stand for something whatever the line style."""
    return [Patch(color=color, linewidth=0, label=label) for label, color in colors.items()]


def legend_above(axes: Axes, *groups: Sequence[Artist], columns: int = 6) -> None:
    """Puts the legend of a figure between its heading and its panels, where it cannot hide a curve.

    Args:
        axes: a panel.
        *groups: labelled artists, such as those of the classifiers and those of the line styles; each group
            begins a new row. Long labels are shortened.
        columns: the largest number of columns; there are fewer where they do not fit. Defaults to 6.
    """
    look = {
        "loc": "upper left",
        "handlelength": 1.6,
        "columnspacing": 1,
        "borderaxespad": 0,
        "borderpad": 0.2,
    }
    figure = axes.figure
    for handles in filter(None, groups):
        for handle in handles:
            handle.set_label(short_label(handle.get_label()))
        for count in range(min(columns, len(handles)), 0, -1):
            legend = figure.legend(handles=handles, ncols=count, **look)
            if count == 1 or _size(figure, legend).width <= figure.bbox.width:
                break
            legend.remove()


def short_label(name: str, longest: int = LONGEST_LABEL) -> str:
    """Returns a name of at most `longest` letters, without its middle where it is longer."""
    if len(name) <= longest:
        return name
    tail = (longest - 1) // 2
    return f"{name[: longest - 1 - tail]}…{name[-tail:]}"


def two_digits(value: float) -> str:
    """Returns a number with two significant digits, as figures show it: 49.4 as 49, 1234 as 1,200."""
    if not math.isfinite(value):
        return "–"
    rounded = float(f"{value:.1e}")
    if rounded == 0 or not 1e-3 <= abs(rounded) < 1e5:
        return f"{rounded:.2g}".replace("-", "−")
    decimals = max(0, 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{decimals}f}".replace("-", "−")


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
    return (WIDTH - 0.9) / max(count, 3) - 0.06


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


def show_captions(axes: Axes, lines: Sequence[str], wrong: bool = False) -> None:
    """Writes a column of short captions above a picture, in bold red where the prediction is wrong."""
    look = {"color": VERMILLION, "fontweight": "bold"} if wrong else {"color": BLACK}
    axes.set_title("\n".join(lines), fontsize=7, pad=2, va="bottom", linespacing=1.15, **look)


def name_row(axes: Axes, label: str, captions: Sequence[str] = (), below: str = "") -> None:
    """Names a row of pictures, and what is written above and below them, at the left of its first one.

    Args:
        axes: the first picture of the row.
        label: of the pictures.
        captions: what each line of `show_captions` says. Defaults to none.
        below: what the label below each picture says. Defaults to nothing.
    """
    axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7)
    for text, height, side in (("\n".join(captions), 1, "bottom"), (below, 0, "top")):
        axes.annotate(
            text,
            (0, height),
            xycoords="axes fraction",
            xytext=(-4, 2 if height else -1),
            textcoords="offset points",
            ha="right",
            va=side,
            fontsize=7,
            linespacing=1.15,
        )
