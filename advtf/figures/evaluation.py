"""Figures of an evaluation, drawn from its files only. Imports no TensorFlow."""

import json
import zipfile
from pathlib import Path

import numpy as np

from advtf.errors import UsageError
from advtf.figures.display import amplified
from advtf.figures.style import BLACK, VERMILLION, WIDTH, sheet, show_picture, show_verdict
from advtf.settings.fields import format_epsilon

KEYS = ("clean", "adversarial", "labels", "clean_predictions", "adversarial_predictions", "l2_sizes")


def robust_accuracy(evaluation_path: str | Path, output: str | Path) -> Path:
    """Draws robust accuracy in the worst case against ε; the ε of the evaluation is marked.

    Args:
        evaluation_path: evaluation.json of an evaluation.
        output: .png, .pdf or .svg to write.

    Returns:
        `output`.

    Raises:
        UsageError: not such a file, or another suffix of `output`.
    """
    try:
        record = json.loads(Path(evaluation_path).read_text())
        points = [(p["epsilon"], p["robust_accuracy"]) for p in record["robust_accuracy_by_epsilon"]]
        marked, norm = record["epsilon"], record["norm"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"an evaluation file must be JSON of advtf.evaluate. Received: {evaluation_path} ({error!r})."
        ) from error
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
        name = {"linf": "l∞", "l2": "l2"}[norm]
        axes.set(xlabel=f"ε ({name}, pixels in [0, 1])", ylabel="robust accuracy (%)")
        axes.set(xlim=(0, None), ylim=(0, 100))
    return Path(output)


def extremes(npz_path: str | Path, output: str | Path) -> Path:
    """Shows the broken examples with the smallest l2 perturbations, and those with the largest.

    Args:
        npz_path: arrays clean, adversarial (N,H,W,C) in [0,1]; labels, clean_predictions,
            adversarial_predictions (N,) integers; l2_sizes (N,). The first half is the least perturbed.
        output: .png, .pdf or .svg to write.

    Returns:
        `output`. Above each adversarial image true → predicted class, below each perturbation its l2 norm;
        one factor amplifies all perturbations.

    Raises:
        UsageError: not such a file, or another suffix of `output`.
    """
    try:
        with np.load(npz_path, allow_pickle=False) as file:
            data = {key: file[key] for key in KEYS}
        columns = len(data["clean"]) // 2
        if columns < 1 or data["clean"].shape != data["adversarial"].shape or data["clean"].ndim != 4:
            raise ValueError("no pair of examples")
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"an examples file must be an NPZ with {', '.join(KEYS)}. Received: {npz_path} ({error})."
        ) from error
    perturbations, factor = amplified(data["adversarial"] - data["clean"])
    size = (WIDTH - 0.7) / max(columns, 3)
    with sheet(output, rows=4, columns=columns, height=4 * (size + 0.18), shared=False) as panels:
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
                    axes.set_xlabel(f"{data['l2_sizes'][example]:.3g}", fontsize=7, labelpad=1)
    return Path(output)
