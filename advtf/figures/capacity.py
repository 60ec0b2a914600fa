"""Test error against the width of the network for several ε schedules. Imports no TensorFlow."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D

from advtf.figures.results import agreed, conditions, read_record, require_some, required
from advtf.figures.style import BLACK, GREEN, ORANGE, VERMILLION, Heading, legend_above, sheet

COLORS = {"constant": VERMILLION, "cosine": GREEN, "linear": ORANGE}
PANELS = {"clean_error": "clean test\nerror (%)", "pgd_error": "robust test\nerror (%)"}


def capacity(run_dirs: Iterable[str | Path], output: str | Path) -> Path:
    """Draws the mean and standard deviation of the test error by width and ε schedule.

    Cf. Liu et al. 2020, Fig. 14. Runs of one width and schedule are repetitions and are shown as dots. Their
    errors are those of the classifier of the last epoch.

    Args:
        run_dirs: finished training runs, each with config.json and evaluation.json.
        output: .png, .pdf or .svg file to write; its folder is made.

    Returns:
        `output`.

    Raises:
        UsageError: there is no run, one is not finished, or `output` has another suffix.
    """
    errors, told = defaultdict(list), []
    for folder in run_dirs:
        schedule, width, found, examples = _read(Path(folder))
        errors[schedule, width].append(found)
        images = {"test": examples} if examples else {}
        told.append(conditions([Path(folder) / "metrics.jsonl"]).replaced(images=images))
    require_some(errors, "run")
    widths = sorted({width for _, width in errors})
    schedules = [name for name in COLORS if any(name == schedule for schedule, _ in errors)]
    title = "Test error by the width of the network and the schedule of ε"
    heading = Heading(title, str(agreed(told)), "cf. Liu et al. 2020, Fig. 14")
    with sheet(output, heading, rows=2, height=3.4, shared=False) as panels:
        for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
            for number, schedule in enumerate(schedules):
                _draw(axes, errors, schedule, name, widths, 0.08 * (number - (len(schedules) - 1) / 2))
            axes.set_ylabel(title)
            axes.set_ylim(0, 100)
            axes.set_xticks(range(len(widths)), map(str, widths))
        panels[0].tick_params(labelbottom=False)
        panels[1].set_xlabel("width factor w of the network")
        handles = [Line2D([], [], color=COLORS[name], marker="o", label=f"{name} ε") for name in schedules]
        repeated = []
        if any(len(found) > 1 for found in errors.values()):
            dot = {"linestyle": "", "marker": ".", "color": BLACK, "markersize": 3}
            repeated.append(Line2D([], [], label="single runs; bars: ± 1 standard deviation", **dot))
        legend_above(panels[0], handles, repeated)
    return Path(output)


def _draw(axes, errors, schedule, name, widths, shift):
    measured = [
        (position + shift, np.array([found[name] for found in errors[schedule, width]]))
        for position, width in enumerate(widths)
        if (schedule, width) in errors
    ]
    positions = [position for position, _ in measured]
    means = [values.mean() for _, values in measured]
    spread = [values.std(ddof=1) if len(values) > 1 else 0 for _, values in measured]
    look = {"color": COLORS[schedule], "clip_on": False}
    axes.errorbar(positions, means, yerr=spread, marker="o", capsize=2, **look)
    for position, values in (found for found in measured if len(found[1]) > 1):
        axes.plot(
            np.full(len(values), position), values, ".", color=BLACK, markersize=1.5, zorder=4, clip_on=False
        )


def _read(folder):
    kind = "a finished training run"
    with required(folder, kind):
        config = read_record(folder / "config.json", kind)["config"]
        results = read_record(folder / "evaluation.json", kind)["results"]["last"]
        errors = {name: results[name] for name in PANELS}
        return config["eps_sched"], config["width"], errors, results.get("examples")
