"""Figures of the study ``theory``: the kink of g_ε, and linear models under attack. Imports no TensorFlow."""

from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from advtf.figures.results import conditions, read_arrays
from advtf.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    RADIUS_LABELS,
    SKY,
    VERMILLION,
    Heading,
    color_handles,
    from_zero,
    legend_above,
    line_handles,
    sheet,
    two_digits,
)

BAND = {"color": SKY, "alpha": 0.3, "linewidth": 0}
DUAL = {"linf": "‖w‖₁", "l2": "‖w‖₂"}


def kink(npz_path: str | Path, output: str | Path) -> Path:
    """Draws g and g_ε of the sketch, and the band of losses over the budget, in one panel for each ε.

    Cf. Liu et al. 2020, Fig. 1 (Fig. 5 of the arXiv version).

    Args:
        npz_path: theory.npz of the study ``theory``.
        output: .png, .pdf or .svg file to write; its folder is made.

    Returns:
        `output`.

    Raises:
        UsageError: the file is no theory.npz, or `output` has another suffix.
    """
    data = _read(npz_path, "sketch", "theta", "epsilons", "clean", "highest", "lowest")
    theta, curves = data["theta"], zip(data["epsilons"], data["highest"], data["lowest"], strict=True)
    title = "A loss with one weight θ, clean and under attack of radius ε"
    heading = Heading(title, "an example in closed form", "cf. Liu et al. 2020, Fig. 1")
    columns = len(data["epsilons"])
    with sheet(output, heading, rows=1, columns=columns, height=2.0, shared=False) as panels:
        for axes, (epsilon, highest, lowest) in zip(panels, curves, strict=True):
            axes.fill_between(theta, lowest, highest, **BAND)
            axes.plot(theta, data["clean"], color=VERMILLION, linestyle="--")
            axes.plot(theta, highest, color=BLUE)
            axes.axvline(0, color=BLACK, linestyle=":", linewidth=0.7)
            axes.text(0.05, 0.9, f"ε = {epsilon:g}", transform=axes.transAxes, fontsize=7)
            axes.set(xlabel="weight θ", xlim=(theta[0], theta[-1]), ylim=(0, 1.05 * data["highest"].max()))
            axes.tick_params(labelleft=axes is panels[0])
        panels[0].set_ylabel("loss (nats)")
        looks = {"clean loss g(x, θ)": (VERMILLION, "--"), "its maximum over the attack": (BLUE, "-")}
        band = _band_handle("all losses within |x′ − x| ≤ ε")
        legend_above(panels[0], [*line_handles(looks), band])
    return Path(output)


def constant_classifier(npz_path: str | Path, output: str | Path) -> Path:
    """Draws loss and ‖W‖ of linear models against the ε they were trained for, with ε̄ and log K.

    Cf. Liu et al. 2020, Theorem 1. Arguments, result and errors are those of `kink`.
    """
    names = ("epsilon", "loss", "loss_bound", "size", "threshold", "log_classes", "norm")
    data = _read(npz_path, "theorem1", *names)
    epsilons = data["epsilon"]
    title = "Beyond the radius ε̄ the best linear model is the constant one: loss and weights by ε"
    heading = Heading(title, _linear(npz_path), "cf. Liu et al. 2020, Theorem 1")
    with sheet(output, heading, rows=2, height=3.5, shared=False) as (loss, size):
        loss.axhline(data["log_classes"], color=BLACK, linestyle="--", linewidth=0.7)
        level = data["log_classes"]
        loss.text(0.02 * epsilons[-1], 1.02 * level, "log K, of the constant model", fontsize=7)
        loss.fill_between(epsilons, data["loss"], data["loss_bound"], **BAND)
        loss.plot(epsilons, data["loss"], color=BLUE, marker="o")
        loss.set_ylabel("adversarial training\nloss (nats)")
        from_zero(loss)
        size.plot(epsilons, data["size"], color=BLUE, marker="o")
        size.set(
            yscale="log",
            ylabel="norm of the weights\n‖W‖ (log scale)",
            xlabel=RADIUS_LABELS[str(data["norm"])],
        )
        size.minorticks_off()
        for axes in (loss, size):
            axes.set_xlim(0, 1.02 * epsilons[-1])
            _mark(axes, data["threshold"])
            axes.tick_params(labelbottom=axes is size)
        _label(size, data["threshold"], "$\\barε$")
        handles = line_handles({"found by gradient ascent": (BLUE, "-")})
        legend_above(loss, [*handles, _band_handle("up to its upper bound")])
        loss.figure.align_ylabels([loss, size])
    return Path(output)


def sets(npz_path: str | Path, output: str | Path) -> Path:
    """Draws the shares of sampled W in V_ε, the version space, and in T_ε, where the origin is optimal.

    Cf. Liu et al. 2020, Proposition 1 and Theorem 1. Arguments, result and errors are those of `kink`.
    """
    data = _read(npz_path, "sets", "epsilons", "robust", "origin", "threshold", "norm")
    title = "How many linear models W are robust, and for how many 0 is optimal along W"
    heading = Heading(title, _linear(npz_path), "cf. Liu et al. 2020, section 3.1")
    with sheet(output, heading, rows=1, height=2.0, shared=False) as (axes,):
        axes.plot(data["epsilons"], 100 * data["robust"], color=GREEN, clip_on=False)
        axes.plot(data["epsilons"], 100 * data["origin"], color=ORANGE, linestyle="--", clip_on=False)
        axes.set(xlabel=RADIUS_LABELS[str(data["norm"])], ylabel="share of sampled W (%)")
        axes.set(xlim=(0, data["epsilons"][-1]), ylim=(0, 100))
        _mark(axes, data["threshold"])
        _label(axes, data["threshold"], "$\\barε$")
        names = "robust: in $V_\\epsilon$ (Prop. 1)", "0 optimal: in $T_\\epsilon$ (Theorem 1)"
        legend_above(axes, line_handles({names[0]: (GREEN, "-"), names[1]: (ORANGE, "--")}), columns=2)
    return Path(output)


def curvature_growth(npz_path: str | Path, output: str | Path) -> Path:
    """Draws mᵀ∇²L_ε m of all directions relative to its value at ε = 0, for each ‖w‖_q; ε̂ is marked.

    Cf. Liu et al. 2020, Theorem 3. Arguments, result and errors are those of `kink`.
    """
    data = _read(npz_path, "theorem3", "epsilons", "separation", "norms", "curvatures", "norm")
    title = "Curvature of the adversarial loss of linear models, relative to ε = 0"
    heading = Heading(title, _linear(npz_path), "cf. Liu et al. 2020, Theorem 3")
    with sheet(output, heading, rows=len(data["norms"]), height=3.5, shared=False) as panels:
        for axes, scale, curvatures in zip(panels, data["norms"], data["curvatures"], strict=True):
            relative = curvatures / curvatures[0]
            axes.plot(data["epsilons"], relative, color=SKY, linewidth=0.3)
            axes.plot(data["epsilons"], np.median(relative, axis=1), color=VERMILLION)
            axes.set_ylabel(f"curvature / at ε = 0\n{DUAL[str(data['norm'])]} = {two_digits(float(scale))}")
            axes.set_xlim(0, data["epsilons"][-1])
            _mark(axes, data["separation"])
            axes.tick_params(labelbottom=axes is panels[-1])
        _label(panels[0], data["separation"], "$\\hatε$")
        panels[-1].set_xlabel(RADIUS_LABELS[str(data["norm"])])
        count = data["curvatures"].shape[-1]
        looks = {f"{count} directions": (SKY, "-"), "their median": (VERMILLION, "-")}
        legend_above(panels[0], line_handles(looks), columns=2)
        panels[0].figure.align_ylabels(panels)
    return Path(output)


def _mark(axes: Axes, epsilon: float) -> None:
    axes.axvline(epsilon, color=BLACK, linestyle=":", linewidth=0.7)


def _label(axes: Axes, epsilon: float, name: str) -> None:
    axes.annotate(
        f"{name} = {two_digits(float(epsilon))}",
        (epsilon, 0.0),
        xycoords=("data", "axes fraction"),
        xytext=(-3, 3),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=7,
    )


def _band_handle(label: str) -> Artist:
    (handle,) = color_handles({label: SKY})
    handle.set_alpha(BAND["alpha"])
    return handle


def _linear(path: str | Path) -> str:
    """Returns what the linear models were measured on; ε has the axis to itself."""
    return f"linear models, {conditions([path]).replaced(epsilon=None)}".removesuffix(", ")


def _read(path: str | Path, section: str, *names: str) -> dict[str, np.ndarray]:
    """Returns the arrays ``<section>_<name>`` of theory.npz by name."""
    stored = [f"{section}_{name}" for name in names]
    arrays = read_arrays(path, stored, "a theory.npz of advtf.analyze --study=theory")
    return dict(zip(names, arrays.values(), strict=True))
