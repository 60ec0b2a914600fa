"""Test error against the width of the network for several ε schedules. Imports no TensorFlow."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D

from advtf.errors import UsageError
from advtf.figures.style import BLACK, GREEN, ORANGE, VERMILLION, sheet

COLORS = {"constant": VERMILLION, "cosine": GREEN, "linear": ORANGE}
PANELS = {"clean_error": "clean test\nerror (%)", "pgd_error": "robust test\nerror (%)"}


def capacity(run_dirs: Iterable[str | Path], output: str | Path) -> Path:
    """Draws mean and standard deviation of the test error by width and ε schedule.

    Cf. Liu et al. 2020, Fig. 14. Runs of one width and schedule are repetitions, shown as dots. Their errors
    are those of the classifier of the last epoch.

    Args:
        run_dirs: finished training runs, each with config.json and evaluation.json.
        output: .png, .pdf or .svg to write; its folder is made.

    Returns:
        `output`.

    Raises:
        UsageError: no run, one that is not finished, or another suffix of `output`.
    """
    errors = defaultdict(list)
    for folder in run_dirs:
        schedule, width, found = _read(Path(folder))
        errors[schedule, width].append(found)
    if not errors:
        raise UsageError("the figure needs at least one run. Received: none.")
    widths = sorted({width for _, width in errors})
    schedules = [name for name in COLORS if any(name == schedule for schedule, _ in errors)]
    with sheet(output, rows=2, height=3.6, shared=False) as panels:
        for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
            for number, schedule in enumerate(schedules):
                _draw(axes, errors, schedule, name, widths, 0.08 * (number - (len(schedules) - 1) / 2))
            axes.set_ylabel(title)
            axes.set_ylim(0, 100)
            axes.set_xticks(range(len(widths)), map(str, widths))
        panels[0].tick_params(labelbottom=False)
        panels[1].set_xlabel("width factor w")
        handles = [Line2D([], [], color=COLORS[schedule], marker="o") for schedule in schedules]
        panels[0].figure.legend(
            handles, schedules, title="ε schedule; cf. Liu et al. 2020, Fig. 14", title_fontsize=7,
            loc="outside upper center", ncols=len(schedules),
        )  # fmt: skip
    return Path(output)


def _draw(axes, errors, schedule, name, widths, shift):
    measured = [
        (place + shift, np.array([found[name] for found in errors[schedule, width]]))
        for place, width in enumerate(widths)
        if (schedule, width) in errors
    ]
    places = [place for place, _ in measured]
    means = [values.mean() for _, values in measured]
    spread = [values.std(ddof=1) if len(values) > 1 else 0 for _, values in measured]
    look = {"color": COLORS[schedule], "clip_on": False}
    axes.errorbar(places, means, yerr=spread, marker="o", capsize=2, **look)
    for place, values in measured:
        axes.plot(
            np.full(len(values), place), values, ".", color=BLACK, markersize=1.5, zorder=4, clip_on=False
        )


def _read(folder):
    try:
        config = json.loads((folder / "config.json").read_text())["config"]
        results = json.loads((folder / "evaluation.json").read_text())["results"]["last"]
        return config["eps_sched"], config["width"], {name: results[name] for name in PANELS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"a finished training run is required. Received: {folder} ({error}).") from error
