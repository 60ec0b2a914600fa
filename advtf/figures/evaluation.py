"""Figures of an evaluation, drawn from its files only. Imports no TensorFlow."""

from pathlib import Path

import numpy as np

from advtf.figures.results import read_arrays, read_record, required
from advtf.figures.style import (
    BLACK,
    RADIUS_LABELS,
    VERMILLION,
    amplified,
    picture_size,
    sheet,
    show_picture,
    show_verdict,
)
from advtf.settings.threat import format_epsilon

KEYS = ("clean", "adversarial", "labels", "clean_predictions", "adversarial_predictions", "l2_sizes")


def robust_accuracy(evaluation_path: str | Path, output: str | Path) -> Path:
    """Draws the robust accuracy in the worst case against ε; the ε of the evaluation is marked.

    Args:
        evaluation_path: evaluation.json of an evaluation.
        output: .png, .pdf or .svg file to write.

    Returns:
        `output`.

    Raises:
        UsageError: the file is no result of an evaluation, or `output` has another suffix.
    """
    kind = "an evaluation.json of advtf.evaluate"
    record = read_record(evaluation_path, kind)
    with required(evaluation_path, kind):
        points = [(p["epsilon"], p["robust_accuracy"]) for p in record["robust_accuracy_by_epsilon"]]
        marked, norm = record["epsilon"], record["norm"]
    epsilons, accuracies = np.array(sorted(points)).T
    with sheet(output, rows=1, height=2.2, shared=False) as (axes,):
        axes.plot(epsilons, accuracies, color=VERMILLION, marker="o", clip_on=False, zorder=3)
        axes.axvline(marked, color=BLACK, linestyle=":", linewidth=0.7)
        axes.annotate(
            f"ε = {format_epsilon(marked)}",
            (marked, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=7,
        )
        axes.set(xlabel=RADIUS_LABELS[norm], ylabel="robust accuracy (%)")
        axes.set(xlim=(0, None), ylim=(0, 100))
    return Path(output)


def extremes(npz_path: str | Path, output: str | Path) -> Path:
    """Shows the broken examples with the smallest l2 perturbations, and those with the largest.

    Args:
        npz_path: examples.npz with the arrays clean, adversarial (N,H,W,C) in [0,1]; labels,
            clean_predictions, adversarial_predictions (N,) integers; l2_sizes (N,). The first half of the
            examples are the least perturbed ones.
        output: .png, .pdf or .svg file to write.

    Returns:
        `output`. Above each adversarial image are its true → predicted class, and below each perturbation is
        its l2 norm. One factor amplifies all perturbations.

    Raises:
        UsageError: the file is no such NPZ, or `output` has another suffix.
    """
    kind = f"an NPZ with {', '.join(KEYS)}"
    data = read_arrays(npz_path, KEYS, kind)
    with required(npz_path, kind):
        columns = len(data["clean"]) // 2
        if columns < 1 or data["clean"].shape != data["adversarial"].shape or data["clean"].ndim != 4:
            raise ValueError("no pair of examples")
    perturbations, factor = amplified(data["adversarial"] - data["clean"])
    height = 4 * (picture_size(columns) + 0.22)
    with sheet(output, rows=4, columns=columns, height=height, shared=False) as panels:
        amplification = f"× {factor:.3g}\nl2 norm"
        for row, name in enumerate(("least\nperturbed", amplification, "most\nperturbed", amplification)):
            cells = panels[row * columns : (row + 1) * columns]
            cells[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
            for column, axes in enumerate(cells):
                example = column + columns * (row // 2)
                if row % 2 == 0:
                    show_picture(axes, data["adversarial"][example])
                    show_verdict(axes, data["labels"][example], data["adversarial_predictions"][example])
                else:
                    show_picture(axes, perturbations[example])
                    axes.set_xlabel(f"{data['l2_sizes'][example]:#.3g}", fontsize=7, labelpad=1)
    return Path(output)
