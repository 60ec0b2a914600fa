"""The study ``connectivity``: trained curves between consecutive models, scanned under attack.

Liu et al. 2020, appendix C.2.5, figure 15.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from advtf.classifiers.classifier import Classifier
from advtf.errors import UsageError
from advtf.figures.connectivity import path_between_minima
from advtf.landscape.curves import CurveScan, CurveScanner, barrier, straight
from advtf.settings.threat import format_epsilon
from advtf.studies.context import STATE, StudyContext
from advtf.training.checks import NonFiniteLoss
from advtf.training.curve import CurveSettings, TrainedCurve, require_connectable, train_curve

BATCH_SIZE = 128  # of the curve's training where that of the models' is unknown; the paper's
MEASURED = {  # columns of the table
    "L_ε train": "train_loss",
    "robust train": "train_error",
    "robust test": "test_error",
    "clean test": "test_clean_error",
}


def run(context: StudyContext) -> list[Path]:
    """Writes connectivity.json, .npz and .png, and curve<k>.npz with the control points of curve k.

    More than two models give a curve from each to the next, trained and measured independently of each
    other. The training images train the curves and give the training loss; on the test images the curves are
    only measured.

    Raises:
        UsageError: fewer than two models, models that cannot be connected, or training that diverges.
    """
    if len(context.classifiers) < 2:
        raise UsageError(f"study=connectivity needs two models. Received: {len(context.classifiers)}.")
    pairs = list(pairwise(context.classifiers))
    for start, end in pairs:
        require_connectable(start, end)
    scanner = _scanner(context)
    found = [_connected(context, scanner, number, *pair) for number, pair in enumerate(pairs, 1)]
    records = [_record(*pair, *parts) for pair, parts in zip(pairs, found, strict=True)]
    for line in _table(context, records):
        context.say(line)
    curves = [
        context.write_arrays(f"curve{number}", kind=np.array(trained.curve.kind), points=trained.curve.points)
        for number, (trained, *_) in enumerate(found, 1)
    ]
    results = context.write_arrays("connectivity", **_arrays(context, found))
    record = context.write_json("connectivity", {"curves": records})
    figure = path_between_minima({"": results}, context.folder / "connectivity.png")
    return [record, results, *curves, figure]


def _scanner(context: StudyContext) -> CurveScanner:
    """Returns what measures every curve; all models have one architecture, so one graph serves them all."""
    return CurveScanner(
        context.classifiers[0],
        (context.x, context.y),
        (context.x_test, context.y_test),
        context.attack,
        context.epsilon,
        seed=context.settings.seed,
        batch_size=context.settings.batch_size,
        jit_compile=context.jit_compile,
    )


def _connected(
    context: StudyContext, scanner: CurveScanner, number: int, start: Classifier, end: Classifier
) -> tuple[TrainedCurve, CurveScan, CurveScan]:
    """Returns the trained curve, its scan, and that of the straight line."""
    settings, state = context.settings, context.folder / STATE / f"curve{number}"
    identity = settings.of_sections("attack", "compute")
    context.say(f"Curve {number}: from {start.name} to {end.name}")
    try:
        trained = train_curve(
            start,
            end,
            context.x,
            context.y,
            context.attack,
            context.epsilon,
            _curve_settings(context, start),
            state_dir=state / "training",
            identity=identity,
            jit_compile=context.jit_compile,
            report=lambda line: context.say(f"  {line}"),
        )
    except NonFiniteLoss as error:
        raise UsageError(str(error)) from error
    line = straight(settings.curve, trained.curve.points[0], trained.curve.points[-1], 1)
    scans = [
        scanner.scan(
            path, settings.curve_points, state_dir=state / name, identity=identity, label=f"{name} {number}"
        )
        for name, path in (("curve", trained.curve), ("line", line))
    ]
    return trained, *scans


def _curve_settings(context, start):
    settings = context.settings
    return CurveSettings(
        kind=settings.curve,
        order=settings.curve_order,
        epochs=settings.curve_epochs,
        learning_rate=settings.curve_lr,
        batch_size=min(start.config.get("batch_size", BATCH_SIZE), len(context.y)),
        seed=settings.seed,
    )


def _record(start, end, trained, curve, line):
    ends = [trained.curve.points[index].astype(np.float64) for index in (0, -1)]
    return {
        "start": start.name,
        "end": end.name,
        "length": trained.curve.length(),
        "distance": float(np.linalg.norm(ends[1] - ends[0])),
        "training_loss": trained.loss,
        "training_error": trained.error,
        "curve": _heights(curve),
        "line": _heights(line),
    }


def _heights(scan):
    """Returns the figure in numbers: values at the ends, the largest value, the barrier and where it is."""
    heights = {}
    for name in MEASURED.values():
        values = getattr(scan, name)
        height, position = barrier(scan.t, values)
        heights[name] = {
            "start": values[0],
            "end": values[-1],
            "largest": values.max(),
            "barrier": height,
            "barrier_at": position,
        }
    return heights


def _arrays(context, found):
    """Returns each measurement (curves, T) under curve_... and line_..., and t (T,)."""
    arrays = {"t": found[0][1].t, "epsilon": np.float64(context.epsilon)}
    arrays["names"] = np.array([classifier.name for classifier in context.classifiers])
    for position, path in ((1, "curve"), (2, "line")):
        scans = [parts[position].arrays() for parts in found]
        names = [name for name in scans[0] if name != "t"]
        arrays |= {f"{path}_{name}": np.stack([scan[name] for scan in scans]) for name in names}
    return arrays


def _table(context, records) -> Iterator[str]:
    kind = {"bezier": "Bezier curve"}.get(context.settings.curve, context.settings.curve)
    yield (
        f"Loss in nats and errors in % along a {kind} of order {context.settings.curve_order}, "
        f"ε {format_epsilon(context.epsilon)}, {len(context.y):,} training and "
        f"{len(context.y_test):,} test images"
    )
    yield f"{'':<26}" + "".join(f"{title:>14}" for title in MEASURED)
    for record in records:
        yield f"{record['start']} to {record['end']}"
        yield _row("  at the start", record["curve"], "start")
        yield _row("  at the end", record["curve"], "end")
        for path, title in (("curve", "curve"), ("line", "straight line")):
            yield _row(f"  {title}, largest", record[path], "largest")
            yield _row(f"  {title}, barrier", record[path], "barrier")
        yield f"  length {record['length']:.4g}, distance of the ends {record['distance']:.4g} (l2)"


def _row(title, heights, key):
    return f"{title:<26}" + "".join(f"{heights[name][key]:>14.4f}" for name in MEASURED.values())
