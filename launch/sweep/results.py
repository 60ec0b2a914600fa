"""What the runs of a sweep have found: `results.csv`, `results.md` and the files of TensorBoard's HParams.

They are written from the directories of the runs alone, so that they can be written again at any time.
"""

import csv
import io
import json
import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from advtf.errors import UsageError
from advtf.storage.files import write_atomically
from launch.sweep.table import Sweep, SweepRun

MEASURED = ("clean_error", "pgd_error")  # of each classifier, in percent
HPARAMS = "hparams"  # folder of the event files
_PLUGIN = "hparams"


def numbers_of(one: SweepRun) -> dict[str, float] | None:
    """Returns ``<classifier>.<measure>`` -> value of a finished run; None for any other.

    Raises:
        UsageError: the results of the run are damaged.
    """
    files = one.run.files
    if not one.run.finished():
        return None
    try:
        results = json.loads(files.results.read_text(encoding="utf-8"))["results"]
        return {
            f"{name}.{measure}": float(record[measure])
            for name, record in results.items()
            for measure in MEASURED
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{files.results} must be the results that the run has written. "
            f"Received: something else ({error}). Remove it, and the sweep writes it anew."
        ) from error


def in_words(numbers: Mapping[str, float]) -> str:
    """Returns the errors of the last classifier in a few words."""
    return f"error {numbers['last.clean_error']:.2f} %, by PGD {numbers['last.pgd_error']:.2f} %"


def write_csv(sweep: Sweep, states: Mapping[str, str]) -> Path:
    """Writes `results.csv`, a row for each run: axes, seed, state, errors in percent, directory.

    Args:
        sweep: the runs.
        states: the state of each run by its path.
    """
    found = {one.run.path: numbers_of(one) or {} for one in sweep.runs}
    columns = dict.fromkeys(column for numbers in found.values() for column in numbers)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    axes = list(sweep.runs[0].axes)
    writer.writerow([*axes, "seed", "state", *columns, "directory"])
    for one in sweep.runs:
        numbers = (found[one.run.path].get(column, "") for column in columns)
        point = (one.axes[axis] for axis in axes)
        writer.writerow([*point, one.seed, states[one.run.path], *numbers, one.run.path])
    path = sweep.out_dir / "results.csv"
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))
    return path


def mean_table(sweep: Sweep) -> str:
    """Returns the errors of each point of the axes as a Markdown table: mean ± standard deviation over seeds.

    The classifiers at the ends of periods are left to `results.csv`.
    """
    points: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for one in sweep.runs:
        numbers = numbers_of(one)
        points.setdefault(tuple(one.axes.values()), []).extend([numbers] if numbers else [])
    columns = list(dict.fromkeys(name for rows in points.values() for row in rows for name in row))
    columns = [column for column in columns if not column.startswith("period")]
    headings = [column.replace(".", " ").replace("_error", "").replace("pgd", "PGD") for column in columns]
    axes = list(sweep.runs[0].axes) or ["run"]
    body = [[*axes, "seeds", *headings]]
    for point, rows in points.items():
        cells = (_cell([row[column] for row in rows if column in row]) for column in columns)
        body.append([*(point or ("all",)), str(len(rows)), *cells])
    return _markdown(body, len(axes))


def _cell(values: Sequence[float]) -> str:
    """Returns ``8.33 ± 0.41``, without the second where there is one value only."""
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def _markdown(rows: list[list[str]], texts: int) -> str:
    """Returns a Markdown table whose first `texts` columns are texts and whose others are numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row):
        cells = [
            cell.ljust(width) if number < texts else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    rule = ["-" * width if number < texts else "-" * (width - 1) + ":" for number, width in enumerate(widths)]
    return "\n".join([line(rows[0]), f"| {' | '.join(rule)} |", *map(line, rows[1:])])


def write_hparams(sweep: Sweep) -> Path:
    """Writes what TensorBoard's HParams plugin compares: settings and errors of every finished run.

    Returns:
        The folder, which holds one folder for each run.
    """
    folder = sweep.out_dir / HPARAMS
    for one in sweep.runs:
        numbers = numbers_of(one)
        if numbers is not None:
            path = folder / one.run.name / "events.out.tfevents.0.sweep"
            path.parent.mkdir(parents=True, exist_ok=True)
            records = b"".join(_records(one, sorted(_all_measures(sweep)), numbers))
            write_atomically(path, lambda file, records=records: file.write(records))
    return folder


def _all_measures(sweep):
    return {name for one in sweep.runs for name in numbers_of(one) or {}}


def _records(one: SweepRun, measures: Iterable[str], numbers: Mapping[str, float]):
    """Yields the records of an event file of one run. TensorBoard's own writers would import TensorFlow."""
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.plugins.hparams import plugin_data_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    def record(event):
        buffer = io.BytesIO()
        RecordWriter(buffer).write(event.SerializeToString())
        return buffer.getvalue()

    def plugin(tag, **content):
        data = plugin_data_pb2.HParamsPluginData(version=0, **content)
        metadata = summary_pb2.SummaryMetadata(
            plugin_data=summary_pb2.SummaryMetadata.PluginData(
                plugin_name=_PLUGIN, content=data.SerializeToString()
            ),
            data_class=summary_pb2.DATA_CLASS_TENSOR,
        )
        value = summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=_scalar(math.nan))
        return event_pb2.Event(wall_time=began, summary=summary_pb2.Summary(value=[value]))

    began = one.run.files.config.stat().st_mtime
    ended = one.run.files.results.stat().st_mtime
    start = plugin_data_pb2.SessionStartInfo(group_name=one.run.name, start_time_secs=began)
    for name, value in (one.axes | {"seed": one.seed}).items():
        if isinstance(value, int):
            start.hparams[name].number_value = value
        else:
            start.hparams[name].string_value = value
    yield record(event_pb2.Event(wall_time=began, file_version="brain.Event:2"))
    yield record(plugin("_hparams_/experiment", experiment=_experiment(one, measures)))
    yield record(plugin("_hparams_/session_start_info", session_start_info=start))
    for name, number in numbers.items():
        value = summary_pb2.Summary.Value(tag=f"error/{name}", simple_value=number)
        yield record(event_pb2.Event(wall_time=ended, summary=summary_pb2.Summary(value=[value])))
    end = plugin_data_pb2.SessionEndInfo(status="STATUS_SUCCESS", end_time_secs=ended)
    yield record(plugin("_hparams_/session_end_info", session_end_info=end))


def _experiment(one, measures):
    from tensorboard.plugins.hparams import api_pb2

    infos = [
        api_pb2.HParamInfo(
            name=name, type="DATA_TYPE_FLOAT64" if isinstance(value, int) else "DATA_TYPE_STRING"
        )
        for name, value in (one.axes | {"seed": one.seed}).items()
    ]
    metrics = [
        api_pb2.MetricInfo(name=api_pb2.MetricName(tag=f"error/{name}"), display_name=name)
        for name in measures
    ]
    return api_pb2.Experiment(
        name="sweep", time_created_secs=time.time(), hparam_infos=infos, metric_infos=metrics
    )


def _scalar(value):
    from tensorboard.compat.proto import tensor_pb2, tensor_shape_pb2, types_pb2

    return tensor_pb2.TensorProto(
        dtype=types_pb2.DT_FLOAT, float_val=[value], tensor_shape=tensor_shape_pb2.TensorShapeProto()
    )
