"""Figures of a training run and of several runs, drawn from their files only. Imports no TensorFlow."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from advtf.errors import UsageError
from advtf.figures.results import NORM_NAMES, Conditions, conditions, read_arrays, require_some
from advtf.figures.style import (
    BLACK,
    BLUE,
    VERMILLION,
    Heading,
    amplified,
    color_handles,
    error_axis,
    from_zero,
    legend_above,
    line_handles,
    name_row,
    picture_size,
    point_marker,
    run_looks,
    scale_rate,
    sheet,
    show_captions,
    show_picture,
    two_digits,
)
from advtf.settings.threat import format_epsilon
from advtf.storage import jsonl

GRID_KEYS = ("clean", "adversarial", "labels", "clean_predictions", "adversarial_predictions", "epsilon")


def learning_curves(metrics_path: str | Path, output: str | Path, validated_on: str = "validation") -> Path:
    """Draws loss, and clean and robust error, of training (dashed) and validation (solid) by epoch.

    Args:
        metrics_path: metrics.jsonl of a run.
        output: .png, .pdf or .svg file to write; its folder is made.
        validated_on: name of the validation images in the legend. Defaults to "validation".

    Returns:
        `output`.

    Raises:
        UsageError: the file is missing, damaged or has no finished epoch, or `output` has another suffix.
    """
    run = _epochs(metrics_path)
    validated = any(name.startswith("val_") for record in run for name in record)
    told = conditions([metrics_path])
    shown = ("train", validated_on) if validated else ("train",)
    told = told.replaced(images={name: count for name, count in told.images.items() if name in shown})
    looks = {"training, ε of the epoch": (BLACK, "--")}
    if validated:
        looks[f"{validated_on}, {_target(told)}"] = (BLACK, "-")
    heading = Heading("Loss and error in training, by epoch", str(told))
    with sheet(output, heading, rows=2, height=3.2) as (loss, error):
        for prefix in ("", "val_"):
            _line(loss, run, f"{prefix}loss", BLACK, _dash(prefix))
            _line(error, run, f"{prefix}clean_accuracy", BLUE, _dash(prefix))
            _line(error, run, f"{prefix}robust_accuracy", VERMILLION, _dash(prefix))
        loss.set_ylabel("loss (nats)")
        error_axis(error, "error (%)")
        colors = color_handles({"clean images": BLUE, "attacked images": VERMILLION})
        legend_above(loss, colors, line_handles(looks))
    return Path(output)


def _target(told: Conditions) -> str:
    return "target ε" if told.epsilon is None else f"ε = {format_epsilon(told.epsilon)}"


def schedule(
    metrics_path: str | Path, output: str | Path, period_starts: Sequence[float] = (), unit: str = "epoch"
) -> Path:
    """Draws ε and the learning rate of training.

    Args:
        metrics_path: metrics.jsonl of a run.
        output: .png, .pdf or .svg to write.
        period_starts: epochs at which the schedules restarted, drawn as dotted lines. Defaults to none.
        unit: "epoch" if each value held for its epoch, "step" if the values are those reached at the ends of
            the epochs. Defaults to "epoch".

    Returns:
        `output`. The axis of the rate is logarithmic when it spans more than a factor of ten.

    Raises:
        UsageError: for the reasons of `learning_curves`.
    """
    run = _epochs(metrics_path)
    told = conditions([metrics_path]).only("train")
    heading = Heading("Schedules of the radius ε and the learning rate", _target_text(told))
    with sheet(output, heading, rows=2, height=2.8) as (epsilon, rate):
        draw = _steps if unit == "epoch" else functools.partial(_line, line="-")
        draw(epsilon, run, "epsilon", VERMILLION)
        draw(rate, run, "learning_rate", BLUE)
        epsilon.set_ylabel(f"ε{f' ({NORM_NAMES[told.norm]})' if told.norm in NORM_NAMES else ''}")
        from_zero(epsilon)
        rate.set_ylabel("learning rate")
        scale_rate(rate, _points(run, "learning_rate")[1])
        for axes, start in itertools.product((epsilon, rate), period_starts):
            axes.axvline(start, color=BLACK, linestyle=":", linewidth=0.7)
        if len(period_starts):
            legend_above(epsilon, line_handles({"a new period begins": (BLACK, ":")}))
    return Path(output)


def _target_text(told: Conditions) -> str:
    """Returns the conditions with ε named as the target, since the figure shows the ε of every epoch."""
    return str(told).replace("ε = ", "target ε = ")


def compare_runs(metrics_paths: Mapping[str, str | Path], output: str | Path) -> Path:
    """Overlays the robust error of several runs, validation above training.

    Args:
        metrics_paths: metrics.jsonl by label, in the order of the legend.
        output: .png, .pdf or .svg to write.

    Returns:
        `output`. The validation panel is left out when no run was validated.

    Raises:
        UsageError: there is no file, or for the reasons of `learning_curves`.
    """
    require_some(metrics_paths, "metrics.jsonl")
    runs = {label: _epochs(path) for label, path in metrics_paths.items()}
    names = {
        "val_robust_accuracy": "robust error,\nvalidation (%)",
        "robust_accuracy": "robust error,\ntraining (%)",
    }
    validated = any(len(_points(run, "val_robust_accuracy")[0]) for run in runs.values())
    shown = dict(list(names.items())[0 if validated else 1 :])
    looks = run_looks(runs)
    told = conditions(metrics_paths.values())
    heading = Heading("Robust error of training runs, by epoch", _compared(told, validated))
    with sheet(output, heading, rows=len(shown), height=1.6 * len(shown)) as panels:
        for axes, (name, title) in zip(panels, shown.items(), strict=True):
            for label, run in runs.items():
                _line(axes, run, name, *looks[label])
            error_axis(axes, title)
        legend_above(panels[0], line_handles(looks))
    return Path(output)


def _compared(told: Conditions, validated: bool) -> str:
    """Returns the conditions of several runs; the errors of the two panels are at different ε."""
    images = {name: count for name, count in told.images.items() if name in ("train", "validation")}
    text = str(told.replaced(images=images))
    return f"{text}; training errors at the ε of the epoch" if validated and text else text


def adversarial_grid(npz_path: str | Path, output: str | Path, columns: int = 6) -> Path:
    """Shows examples: the clean and the adversarial image and the amplified perturbation of each.

    Args:
        npz_path: examples.npz of a run, with the arrays clean, adversarial (N,H,W,C) in [0,1]; labels,
            clean_predictions, adversarial_predictions (N,) integers; epsilon, a number.
        output: .png, .pdf or .svg file to write.
        columns: largest number of examples; the first ones are shown. Defaults to 6.

    Returns:
        `output`. Above each image are its true and its predicted class, in bold red where they differ. One
        factor amplifies all perturbations.

    Raises:
        UsageError: the file is no such NPZ, or `output` has another suffix.
    """
    data = _examples(npz_path, columns)
    perturbation, factor = amplified(data["adversarial"] - data["clean"])
    rows = {
        "clean\nimage": (data["clean"], data["clean_predictions"]),
        "adversarial\nimage": (data["adversarial"], data["adversarial_predictions"]),
        f"perturbation\n× {two_digits(factor)}": (perturbation, None),
    }
    count = len(data["labels"])
    told = conditions([npz_path]).replaced(images={})
    which = "The first test image" if count == 1 else f"The first {count} test images"
    height = 3 * (picture_size(count) + 0.12) + 2 * 0.25
    heading = Heading(f"{which}, clean and attacked", str(told))
    with sheet(output, heading, rows=3, columns=count, height=height, shared=False) as panels:
        for row, (title, (images, predictions)) in enumerate(rows.items()):
            cells = panels[row * count : (row + 1) * count]
            name_row(cells[0], title, () if predictions is None else ("true class", "predicted"))
            for column, axes in enumerate(cells):
                show_picture(axes, images[column])
                if predictions is not None:
                    classes = data["labels"][column], predictions[column]
                    show_captions(axes, list(map(str, classes)), wrong=classes[0] != classes[1])
    return Path(output)


def _epochs(path: str | Path) -> list[dict]:
    """Returns the records in the order of the epochs; a resumed run repeats epochs, and its record counts."""
    records = jsonl.read(path)
    required = ("epoch", "loss")
    if not records or any(key not in record for record in records for key in required):
        found = f"keys {', '.join(records[0])}" if records else "no epoch"
        raise UsageError(
            f"a metrics file must hold one record per epoch with {' and '.join(required)}. "
            f"Received: {path} with {found}. Give the metrics.jsonl of a run that finished an epoch."
        )
    by_epoch = {record["epoch"]: record for record in records}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _points(run: list[dict], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the epochs with a (finite) value, and the values; accuracies become errors in percent."""
    pairs = [(record["epoch"], record[name]) for record in run if record.get(name) is not None]
    epochs, values = np.array(pairs, float).reshape(-1, 2).T
    return epochs, 100 * (1 - values) if name.endswith("accuracy") else values


def _line(axes: Axes, run: list[dict], name: str, color: str, line: str) -> None:
    epochs, values = _points(run, name)
    fill = color if line == "-" else "white"  # where there is a single epoch, the marker is all there is
    axes.plot(
        epochs, values, color=color, linestyle=line, marker=point_marker(len(run)), markerfacecolor=fill
    )


def _steps(axes: Axes, run: list[dict], name: str, color: str) -> None:
    epochs, values = _points(run, name)
    if len(epochs):  # epoch number e lasts from e-1 to e
        axes.step(
            [*(epochs - 1), epochs[-1]], [*values, values[-1]], where="post", color=color, clip_on=False
        )


def _dash(prefix: str) -> str:
    return "-" if prefix else "--"


def _examples(path: str | Path, columns: int) -> dict[str, np.ndarray]:
    data = read_arrays(path, GRID_KEYS, f"an NPZ with {', '.join(GRID_KEYS)}")
    clean, lengths = data["clean"], {len(np.atleast_1d(data[key])) for key in GRID_KEYS[:-1]}
    if (
        clean.ndim != 4
        or data["adversarial"].shape != clean.shape
        or lengths != {len(clean)}
        or not len(clean)
    ):
        raise UsageError(
            "clean and adversarial must have one shape (N,H,W,C), N > 0, labels and predictions N entries. "
            f"Received: {path} with clean.shape={clean.shape}, adversarial.shape={data['adversarial'].shape}."
        )
    return {key: value if value.ndim == 0 else value[:columns] for key, value in data.items()}
