"""Figures of an evaluation, drawn from its files only. Imports no TensorFlow."""

from pathlib import Path

import numpy as np

from advtf.figures.results import conditions, conditions_of, read_arrays, read_record, required
from advtf.figures.style import (
    BLACK,
    RADIUS_LABELS,
    VERMILLION,
    Heading,
    amplified,
    name_row,
    picture_size,
    sheet,
    show_captions,
    show_picture,
    two_digits,
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
    told = conditions_of(record).replaced(epsilon=None)
    heading = Heading("Accuracy under attack, by the radius ε", str(told))
    with sheet(output, heading, rows=1, height=2.2, shared=False) as (axes,):
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
        `output`. Above each adversarial image are its true and its predicted class, and below each
        perturbation is its l2 norm. One factor amplifies all perturbations.

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
    height = 4 * (picture_size(columns) + 0.1) + 2 * 0.25 + 2 * 0.15
    told = conditions([npz_path])
    title = "Misclassified test images with the smallest and the largest perturbations"
    heading = Heading(title, str(told))
    with sheet(output, heading, rows=4, columns=columns, height=height, shared=False) as panels:
        amplification = f"perturbation\n× {two_digits(factor)}"
        for row, name in enumerate(("smallest", amplification, "largest", amplification)):
            cells = panels[row * columns : (row + 1) * columns]
            if row % 2:
                name_row(cells[0], name, below="l2 norm")
            else:
                name_row(cells[0], name, ("true class", "predicted"))
            for column, axes in enumerate(cells):
                example = column + columns * (row // 2)
                if row % 2 == 0:
                    classes = data["labels"][example], data["adversarial_predictions"][example]
                    show_picture(axes, data["adversarial"][example])
                    show_captions(axes, list(map(str, classes)), wrong=classes[0] != classes[1])
                else:
                    show_picture(axes, perturbations[example])
                    axes.set_xlabel(two_digits(float(data["l2_sizes"][example])), fontsize=7, labelpad=1)
    return Path(output)
