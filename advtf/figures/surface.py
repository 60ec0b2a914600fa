"""Slices of the loss surface: curves, contours, and an interactive page. Imports no TensorFlow.

The page needs Plotly, the extra ``interactive`` of this package.
"""

import importlib.util
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from advtf.errors import UsageError
from advtf.figures.results import conditions, require_some, required
from advtf.figures.style import (
    BLACK,
    RUN_COLORS,
    Heading,
    color_handles,
    error_axis,
    from_zero,
    legend_above,
    line_handles,
    sheet,
    short_label,
)
from advtf.storage.files import write_atomically

QUANTITIES = {
    "adversarial_loss": "adversarial loss (nats)",
    "clean_loss": "clean loss (nats)",
    "robust_error": "robust error (%)",
    "clean_error": "clean error (%)",
}
LOSSES = {"adversarial images": "adversarial_loss", "clean images": "clean_loss"}
COLORS = "cividis"  # can be told apart with any colour vision, and in grey
LEVELS = 16
LOGARITHMIC = 5.0  # ratio of losses above which equal steps would leave the valley flat
CONFIG = {"responsive": True, "displaylogo": False}
CAMERA = {"eye": {"x": 1.7, "y": -1.7, "z": 0.9}, "center": {"x": 0, "y": 0, "z": -0.15}}
INSTALL_PLOTLY = "Install the extra interactive, or run pip install plotly."
SOURCE = "cf. Liu et al. 2020, Fig. 12"


def loss_surface(paths: Mapping[str, str | Path], output: str | Path) -> Path:
    """Draws slices: lines of loss and error in one dimension, contours in two; cf. Liu et al. 2020, Fig. 12.

    The contours of one file show the adversarial and the clean loss, those of several files the adversarial
    loss of each. All panels have one scale.

    Args:
        paths: surface.npz by label, in the order of the legend; "" for one file without a label.
        output: .png, .pdf or .svg file to write; its folder is made.

    Returns:
        `output`.

    Raises:
        UsageError: there is no file, one is no surface.npz, the files are of different dimensions, or
            `output` has another suffix.
    """
    require_some(paths, "surface.npz")
    slices = {label: _read(path) for label, path in paths.items()}
    dimensions = {data["adversarial_loss"].ndim for data in slices.values()}
    if len(dimensions) != 1:
        raise UsageError("surfaces must have equal dimensions. Received: one and two dimensions.")
    told = str(conditions(paths.values()).only("train", "test"))
    if dimensions == {1}:
        _lines(slices, Path(output), Heading("Loss and error along a line through the weights", told, SOURCE))
    else:
        shown = "Loss" if len(slices) == 1 else "Adversarial loss"
        _contours(slices, Path(output), Heading(f"{shown} on a plane through the weights", told, SOURCE))
    return Path(output)


def _lines(slices, output, heading):
    looks = dict(zip(slices, RUN_COLORS * len(slices), strict=False))
    with sheet(output, heading, rows=2, height=3.3, shared=False) as (loss, error):
        for label, data in slices.items():
            for kind, line in (("adversarial_loss", "-"), ("clean_loss", "--")):
                loss.plot(data["axis0"], data[kind], color=looks[label], linestyle=line)
            for kind, line in (("robust_error", "-"), ("clean_error", "--")):
                error.plot(data["axis0"], data[kind], color=looks[label], linestyle=line)
        for axes, (position,) in itertools.product((loss, error), _models(next(iter(slices.values())))):
            axes.axvline(position, color=BLACK, linestyle=":", linewidth=0.7)
        loss.set_ylabel("loss (nats)")
        from_zero(loss)
        error_axis(error, "error (%)")
        loss.tick_params(labelbottom=False)
        error.set_xlabel(short_label(_axis_labels(slices)[0], 54), fontsize=7)
        classifiers = color_handles({label: color for label, color in looks.items() if label})
        handles = line_handles({"adversarial": (BLACK, "-"), "clean": (BLACK, "--")})
        handles += line_handles({"a classifier": (BLACK, ":")})
        legend_above(loss, classifiers, handles)
        loss.figure.align_ylabels([loss, error])


def _contours(slices, output, heading):
    if len(slices) == 1:
        (data,) = slices.values()
        panels = [(title, data, data[name]) for title, name in LOSSES.items()]
    else:
        panels = [(label, data, data["adversarial_loss"]) for label, data in slices.items()]
    rows = -(-len(panels) // 2)
    scale = _scale([grid for _, _, grid in panels])
    with sheet(output, heading, rows=rows, columns=2, height=0.2 + 1.35 * rows, shared=False) as cells:
        for axes, (title, data, grid) in zip(cells, panels, strict=False):
            drawn = _contour(axes, data, grid, scale)
            axes.set_title(short_label(title, 22), fontsize=6)
        for axes in cells[len(panels) :]:
            axes.set_visible(False)
        figure = cells[0].figure
        bar = figure.colorbar(drawn, ax=cells, shrink=0.9, aspect=30, pad=0.02, format="%.2g")
        bar.set_ticks(drawn.levels[::2])
        bar.set_label(f"loss (nats{', log scale' if isinstance(scale[0], LogNorm) else ''})", fontsize=7)
        bar.ax.tick_params(labelsize=6)
        first, second = _axis_labels(slices)
        figure.supxlabel(_wrapped(first, 60), fontsize=7)
        figure.supylabel(_wrapped(second, 22 * rows), fontsize=7)
        dot = {"marker": "o", "color": "white", "markeredgecolor": BLACK, "markeredgewidth": 0.5}
        legend_above(cells[0], [Line2D([], [], linestyle="", label="a classifier", **dot)])


def _wrapped(label, width):
    """Breaks a label that is longer than the figure is high at its comma, and shortens the parts."""
    if len(label) <= width:
        return label
    return ",\n".join(short_label(part, width) for part in label.split(", "))


def _scale(grids):
    """Returns the norm and the levels of one scale for all panels, logarithmic where losses span much."""
    values = np.concatenate([grid[np.isfinite(grid)] for grid in grids])
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    if high - low <= 1e-6 * abs(low):
        high = low + max(abs(low), 1.0) * 1e-6  # a flat surface
    if low > 0 and high > LOGARITHMIC * low:
        levels = np.geomspace(low, high, LEVELS + 1)
        return LogNorm(low, high), levels
    levels = MaxNLocator(LEVELS).tick_values(low, high)
    return Normalize(levels[0], levels[-1]), levels


def _contour(axes, data, grid, scale):
    norm, levels = scale
    x, y = data["axis0"], data["axis1"]
    # The least and largest values lie on the outermost levels, on whose far side rounding may put them.
    drawn = axes.contourf(x, y, np.clip(grid.T, levels[0], levels[-1]), levels=levels, norm=norm, cmap=COLORS)
    axes.contour(x, y, grid.T, levels=levels, colors="white", linewidths=0.3)
    axes.set_box_aspect(1)
    axes.grid(False)
    axes.tick_params(labelsize=6)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    for position in _models(data):
        axes.plot(*position, "o", color="white", markeredgecolor=BLACK, markeredgewidth=0.5, clip_on=False)
    return drawn


def _models(data):
    """Returns the coordinates of the model, and of those that the axes go towards."""
    axes = data["adversarial_loss"].ndim
    return [(0.0,) * axes, *(map(tuple, np.eye(axes)) if data["towards"] else ())]


def _axis_labels(slices):
    """Returns the labels of the axes; what differs between the files is left out."""
    labels = [data["labels"].tolist() for data in slices.values()]
    if all(label == labels[0] for label in labels):
        return labels[0]
    return [label.split(", ")[0] for label in labels[0]]


def _read(path):
    with required(path, "a surface.npz", "Run --study=surface."):
        with np.load(path, allow_pickle=False) as file:
            data = {name: file[name] for name in file.files}
        for name in (*QUANTITIES, "labels", "axis0", "epsilon", "model", "towards"):
            data[name]
        if data["adversarial_loss"].ndim not in (1, 2):
            raise ValueError("a grid of one or two axes is required")
        return data


def has_plotly() -> bool:
    """Tells whether `interactive_surface` can be drawn."""
    return importlib.util.find_spec("plotly") is not None


def interactive_surface(path: str | Path, output: str | Path) -> Path:
    """Writes a page on which the slice can be turned, enlarged and read off; it needs no network.

    Args:
        path: surface.npz of the study ``surface``.
        output: .html file to write; its folder is made. It contains the drawing library, 5 MB.

    Returns:
        `output`.

    Raises:
        UsageError: Plotly is not installed, the file is no surface.npz, or `output` has another suffix.
    """
    output = Path(output)
    if not has_plotly():
        raise UsageError(f"an interactive page needs Plotly. Received: no plotly. {INSTALL_PLOTLY}")
    if output.suffix != ".html":
        raise UsageError(f"an interactive figure's file must end in .html. Received: output={output}.")
    data = _read(path)
    figure = _plotly_lines(data) if data["adversarial_loss"].ndim == 1 else _plotly_surface(data)
    about = conditions([path]).only("train", "test")
    title = f"Loss around the weights of {data['model']}<br><sup>{about}; {SOURCE}</sup>"
    figure.update_layout(title=title, template="plotly_white", margin={"l": 20, "r": 20, "b": 20})
    page = figure.to_html(include_plotlyjs=True, div_id="surface", default_height="95vh", config=CONFIG)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, lambda file: file.write(page.encode()))
    return output


def _plotly_lines(data):
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06)
    for number, (name, label) in enumerate(QUANTITIES.items()):
        dash = "dash" if name.startswith("clean") else "solid"
        row = 1 if name.endswith("loss") else 2
        line = {"color": RUN_COLORS[number], "dash": dash}
        trace = graph_objects.Scatter(
            x=data["axis0"], y=data[name], name=label, mode="lines+markers", line=line
        )
        figure.add_trace(trace, row=row, col=1)
    figure.update_yaxes(title_text="loss (nats)", row=1, col=1)
    figure.update_yaxes(title_text="error (%)", row=2, col=1)
    figure.update_xaxes(title_text=str(data["labels"][0]), row=2, col=1)
    return figure


def _plotly_surface(data):
    from plotly import graph_objects

    first, second = (str(label) for label in data["labels"])
    names = (label.split()[0] for label in (first, second))
    hover = "{} %{{x:.3g}}<br>{} %{{y:.3g}}<br>%{{z:.4g}}".format(*names)
    figure = graph_objects.Figure()
    for number, (name, label) in enumerate(QUANTITIES.items()):
        figure.add_trace(
            graph_objects.Surface(
                x=data["axis0"],
                y=data["axis1"],
                z=data[name].T,
                colorscale="Cividis",
                visible=number == 0,
                colorbar={"title": label},
                hovertemplate=f"{hover}<extra></extra>",
            )
        )
    buttons = [
        {
            "label": label,
            "method": "update",
            "args": [
                {"visible": [other == name for other in QUANTITIES]},
                {"scene.zaxis.title.text": label},
            ],
        }
        for name, label in QUANTITIES.items()
    ]
    titles = {"xaxis": first, "yaxis": second, "zaxis": QUANTITIES["adversarial_loss"]}
    scene = {axis: {"title": {"text": title}} for axis, title in titles.items()}
    menu = {"buttons": buttons, "x": 0.0, "xanchor": "left", "y": 1.0}
    figure.update_layout(scene=scene | {"aspectmode": "cube", "camera": CAMERA}, updatemenus=[menu])
    return figure
