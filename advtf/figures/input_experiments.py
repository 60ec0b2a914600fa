"""Figures of the experiments on the input landscape (Li & Spratling 2023, sec. 4, app. A). No TensorFlow."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from advtf.figures.results import conditions, read_arrays, read_record, required
from advtf.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    VERMILLION,
    Heading,
    legend_above,
    line_handles,
    log_axis,
    sheet,
)

ATTACKS = {"fgsm": ("FGSM", VERMILLION), "pgd10": ("PGD-10", BLUE)}
MEASURES = {
    "ig": "slope: l1 norm of the input gradient, IG (nats)",
    "hs": "curvature: l1 norm of the largest eigenvalues\nof the input Hessian, HS (nats)",
}
SHORT = {"ig": "slope IG (nats)", "hs": "curvature HS (nats)"}
SPLITS = {"train": ("training images", BLUE), "test": ("test images", VERMILLION)}
TOLERATED = 0.1  # appendix A3: deviations of ±10 % are reasonably small
EFFECTIVENESS = "effectiveness: rise of\nthe loss relative to\nthat by PGD-50"
PAPER = "Li & Spratling 2023"


def degraded_training(path: str | Path, output: str | Path) -> Path:
    """Draws effectiveness and HS after training on degraded perturbations; cf. Fig. 4b and c.

    The dotted line is HS before that training; bars are standard errors.

    Args:
        path: degraded.json of the study ``degraded``.
        output: .png, .pdf or .svg file to write; its folder is made.

    Raises:
        UsageError: the file is missing or another one, or `output` has another suffix.
    """
    records = _records(path, "kind", skip=("before",))
    before = _records(path, "hs", only="before")
    labels = {"scaled": "factor on the\nperturbation", "flipped": "share of its signs\nreversed"}
    title = "Training on degraded perturbations: strength of attacks and input curvature after it"
    heading = _heading(path, title, "Fig. 4b and c", "train", "test")
    with sheet(output, heading, rows=2, columns=2, height=3.5, shared=False) as panels:
        for column, (kind, label) in enumerate(labels.items()):
            found = _series(records, kind)
            upper, lower = panels[column], panels[2 + column]
            for name, (_, color) in ATTACKS.items():
                _bars(upper, [r["value"] for r in found], [r[name] for r in found], color)
            trained = [(r["value"], r["train"]["mean"]) for r in found if r["train"]["mean"] is not None]
            upper.plot(*zip(*trained, strict=True) if trained else ([], []), color=BLACK, marker="s")
            _bars(lower, [r["value"] for r in found], [r["hs"] for r in found], GREEN)
            lower.axhline(before[0]["hs"]["mean"], color=GREEN, linestyle=":", linewidth=0.8)
            lower.set_xlabel(label)
            upper.tick_params(labelbottom=False)
        spectra = [r["hs"]["mean"] for r in records]
        for axes in panels[2:]:
            _logarithmic(axes.yaxis, spectra)
        _share(panels[:2])
        _share(panels[2:])
        for axes in (panels[1], panels[3]):
            axes.tick_params(labelleft=False)
        panels[0].set_ylabel(EFFECTIVENESS)
        panels[2].set_ylabel(
            "curvature: l1 norm of\nthe largest eigenvalues of\nthe input Hessian, HS (nats)"
        )
        looks = {
            **{shown: (color, "o") for shown, color in ATTACKS.values()},
            "training examples": (BLACK, "s"),
        }
        _legend(panels, looks, {"HS before that training": (GREEN, ":")}, [_bar_handle()])
    return Path(output)


def _series(records, kind):
    """Returns the records of one kind by value; no reversed sign is the whole perturbation."""
    found = [r for r in records if r["kind"] == kind]
    if kind == "flipped" and all(r["value"] for r in found):
        found += [r | {"value": 0.0} for r in records if (r["kind"], r["value"]) == ("scaled", 1)]
    return sorted(found, key=lambda r: r["value"])


def weight_noise(path: str | Path, output: str | Path) -> Path:
    """Draws effectiveness against IG and HS over noisy variants of a classifier; cf. Fig. 4a.

    Each point is a variant; the one with a black rim is the classifier itself. Titles show Spearman's ρ.

    Args:
        path: noise.json of the study ``noise``.
        output: .png, .pdf or .svg file to write; its folder is made.

    Raises:
        UsageError: the file is missing or another one, or `output` has another suffix.
    """
    records, correlations = _records(path, "scale"), _content(path).get("correlations", {})
    title = "Strength of attacks against slope and curvature, of noisy variants of a classifier"
    heading = _heading(path, title, "Fig. 4a", "train", "test")
    with sheet(output, heading, rows=2, height=4.4, shared=False) as panels:
        for axes, (measure, label) in zip(panels, MEASURES.items(), strict=True):
            for name, (_, color) in ATTACKS.items():
                pairs = [(r[measure]["mean"], r[name]["mean"], r["scale"] == 0) for r in records]
                pairs = [pair for pair in pairs if None not in pair]
                x, y, own = zip(*pairs, strict=True) if pairs else ([], [], [])
                rims = [BLACK if mine else "none" for mine in own]
                axes.scatter(x, y, s=10, color=color, edgecolors=rims, linewidths=0.8, zorder=3)
            axes.set_xlabel(label, fontsize=7, loc="right")
            axes.set_title(_correlation_title(correlations, measure), fontsize=7)
            axes.set_ylabel(EFFECTIVENESS)
            if _logarithmic(axes.xaxis, x):
                axes.xaxis.label.set_text(label.replace("(nats)", "(nats, log scale)"))
        _share(panels)
        points = {shown: (color, "o") for shown, color in ATTACKS.values()}
        own = {"marker": "o", "markerfacecolor": "white", "linestyle": ""}
        unperturbed = Line2D([], [], color=BLACK, label="without noise (black rim)", **own)
        _legend(panels, points, handles=[unperturbed])
    return Path(output)


def _correlation_title(correlations, measure):
    lines = []
    for name, (shown, _) in ATTACKS.items():
        found = correlations.get(f"{name}, {measure}")
        if found and found["rho"] is not None:
            interval = "" if found["low"] is None else f" [{found['low']:.2f}, {found['high']:.2f}]"
            number = f"{found['rho']:.2f}{interval}".replace("-", "−")
            lines.append(f"{shown}: Spearman's ρ = {number}")
    return "\n".join(lines)


def pgd_convergence(path: str | Path, output: str | Path) -> Path:
    """Draws adversarial variance and robust accuracy against the steps of PGD; cf. Fig. A1.

    Args:
        path: convergence.json of the study ``convergence``.
        output: .png, .pdf or .svg file to write; its folder is made.

    Raises:
        UsageError: the file is missing or another one, or `output` has another suffix.
    """
    records = _records(path, "steps")
    title = "How many steps of PGD suffice: loss and accuracy by the number of steps"
    heading = _heading(path, title, "Fig. A1")
    with sheet(output, heading, rows=2, height=3.0, shared=False) as panels:
        for split, (_, color) in SPLITS.items():
            found = sorted((r for r in records if r["split"] == split), key=lambda r: r["steps"])
            steps = [r["steps"] for r in found]
            _bars(panels[0], steps, [r["av"] for r in found], color)
            panels[1].plot(steps, [r["accuracy"] for r in found], color=color, marker="o")
        steps = sorted({r["steps"] for r in records})
        for axes in panels:
            axes.set_xscale("log")
            axes.set_xticks(steps, labels=map(str, steps))
            axes.set_xticks([], minor=True)
            axes.axvline(50, color="0.6", linestyle=":", linewidth=0.8)
        panels[0].tick_params(labelbottom=False)
        panels[0].set_ylabel("rise of the loss\nunder attack (nats)")
        panels[1].set_ylabel("robust\naccuracy (%)")
        panels[1].set_xlabel("steps of PGD, each ε/4 (log scale)")
        panels[0].figure.align_ylabels(panels)
        points = {shown: (color, "o") for shown, color in SPLITS.values()}
        _legend(panels, points, {"50 steps": ("0.6", ":")}, [_bar_handle()])
    return Path(output)


def sampling_faithfulness(path: str | Path, output: str | Path) -> Path:
    """Draws how far means over random subsets stray from the mean of all images; cf. Fig. A3.

    Args:
        path: sampling.npz of the study ``sampling``.
        output: .png, .pdf or .svg file to write; its folder is made.

    Raises:
        UsageError: the file is missing or another one, or `output` has another suffix.
    """
    arrays = _arrays(path)
    titles = SHORT | {name: f"effectiveness of {shown}" for name, (shown, _) in ATTACKS.items()}
    title = "How far means over random subsets of images stray from the mean over all"
    heading = _heading(path, title, "Fig. A3")
    with sheet(output, heading, rows=2, columns=2, height=3.5, shared=False) as panels:
        for axes, (name, title) in zip(panels, titles.items(), strict=True):
            values, sizes, means = (arrays[f"{name}_{part}"] for part in ("values", "sizes", "means"))
            whole = values.mean()
            axes.fill_between(sizes, means.min(axis=0), means.max(axis=0), color=ORANGE, alpha=0.35, lw=0)
            low, high = np.quantile(means, [0.025, 0.975], axis=0)
            axes.fill_between(sizes, low, high, color=ORANGE, alpha=0.8, lw=0)
            axes.axhline(whole, color=BLACK)
            for bound in (1 - TOLERATED, 1 + TOLERATED):
                axes.axhline(bound * whole, color="0.4", linestyle=":", linewidth=0.8)
            _logarithmic(axes.xaxis, sizes)
            axes.set_title(f"{title},\nof {len(values):,} images", fontsize=7)
        for axes in panels[2:]:
            axes.set_xlabel("images averaged\n(log scale)")
        looks = {"mean of all images": (BLACK, "-"), "±10 % of it": ("0.4", ":")}
        bands = {"all means of subsets": 0.35, "95 % of them": 0.8}
        patches = [Patch(color=ORANGE, alpha=alpha, lw=0, label=label) for label, alpha in bands.items()]
        _legend(panels, {}, looks, patches)
    return Path(output)


def _bars(axes, x: Sequence[float], estimates: Sequence[dict], color: str) -> None:
    """Draws the means with their standard errors, where there are any."""
    known = [(at, e["mean"], e["standard_error"] or 0) for at, e in zip(x, estimates, strict=True)
             if e["mean"] is not None]  # fmt: skip
    if known:
        positions, means, errors = zip(*known, strict=True)
        axes.errorbar(positions, means, yerr=errors, color=color, marker="o", capsize=1.5)


def _bar_handle() -> Line2D:
    return Line2D([], [], color=BLACK, marker="|", linestyle="", label="bars: ± 1 standard error")


def _share(panels):
    """Gives all panels one vertical scale."""
    limits = np.array([axes.get_ylim() for axes in panels])
    for axes in panels:
        axes.set_ylim(limits[:, 0].min(), limits[:, 1].max())


def _logarithmic(axis, values):
    """Makes an axis logarithmic where values span a factor of three, and returns whether it did."""
    values = [value for value in values if value is not None]
    wide = len(values) > 0 and min(values) > 0 and max(values) > 3 * min(values)
    if wide:
        log_axis(axis)
    return wide


def _heading(path, title, figure, *splits):
    """Returns the heading; of the images only the first split that there is, where splits are given."""
    told = conditions([path])
    return Heading(title, str(told.only(*splits) if splits else told), f"cf. {PAPER}, {figure}")


def _legend(panels, points, lines=None, handles=()):
    marks = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=label)
        for label, (color, marker) in points.items()
    ]
    legend_above(panels[0], marks, [*line_handles(lines or {}), *handles])


def _content(path):
    kind = "a result file with records"
    content = read_record(path, kind)
    with required(path, kind):
        if not content["records"]:
            raise ValueError("no records")
    return content


def _records(path, entry, *, only=None, skip=()):
    """Returns the records that are wanted, each of which must have `entry`."""
    records = _content(path)["records"]
    with required(path, f"a result file with {entry} in its records"):
        chosen = [r for name, r in records.items() if name not in skip and only in (None, name)]
        if not chosen or any(entry not in record for record in chosen):
            raise ValueError(f"no {entry}")
    return chosen


def _arrays(path):
    names = [f"{name}_{part}" for name in (*MEASURES, *ATTACKS) for part in ("values", "sizes", "means")]
    return read_arrays(path, names, "a sampling.npz")
