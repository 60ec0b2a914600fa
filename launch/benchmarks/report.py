"""The figure and the table of all results of the suite, made from their files only."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

from advtf.errors import UsageError
from launch.benchmarks.registry import ENTRIES
from launch.common.benchmark import COSTS, Comparison, Result

BEGIN, END = "<!-- results of launch.benchmarks -->", "<!-- end of the results -->"
ROW = 0.12  # inches of a line of the figure
HEADING_LETTERS = 58  # that fit into a line
HEADING = {
    "fontsize": 5.5,
    "fontweight": "bold",
    "bbox": {"facecolor": "white", "edgecolor": "none", "boxstyle": "square,pad=0.1"},
}
GOAL_MARK = {"marker": "|", "markersize": 6, "markeredgewidth": 1.5}


def ordered(results: Mapping[str, Result]) -> dict[str, Result]:
    """Returns the results in the order of the registry; files of other programs are left out."""
    return {name: results[name] for name in ENTRIES if name in results}


def draw(results: Mapping[str, Result], output: Path) -> None:
    """Draws the ratios of all costs with their ranges, grouped by entry, and the goals.

    Args:
        results: by the names of entries.
        output: .png, .pdf or .svg file.

    Raises:
        UsageError: there is no result to draw.
    """
    from matplotlib.lines import Line2D

    from advtf.figures.style import BLACK, BLUE, ORANGE, VERMILLION, Heading, legend_above, log_axis, sheet

    groups = {
        name: [row for row in result.comparisons if row.unit in COSTS]
        for name, result in ordered(results).items()
        if ENTRIES[name].drawn
    }
    if not any(groups.values()):
        raise UsageError("the figure needs a result with costs. Received: none. Measure an entry first.")
    lines = list(_lines(groups))
    heading = Heading(
        "Cost of advtf divided by that of others",
        _conditions(results),
        "Median of the rounds, and their range.",
    )
    with sheet(output, heading, rows=1, height=ROW * len(lines) + 0.4, shared=False) as (axes,):
        for place, (label, row) in enumerate(lines):
            if row is None:  # a heading of the rows below it
                left = ("figure fraction", "data")
                text = axes.annotate(
                    label, (0.01, place), xycoords=left, annotation_clip=False, va="center", **HEADING
                )
                text.set_in_layout(False)  # the axes need not make room for it
                continue
            color = BLUE if _good(row) else VERMILLION
            reach = [min(row.ratios), max(row.ratios)]
            axes.plot(reach, [place, place], color=color, linewidth=1.5, alpha=0.5)
            axes.plot([row.ratio], [place], "o", color=color)
            if row.goal is not None:
                axes.plot([row.goal], [place], color=ORANGE, **GOAL_MARK)
        axes.axvline(1, color=BLACK, linewidth=0.8)
        labels = ["" if row is None else label for label, row in lines]
        axes.set_yticks(range(len(lines)), labels=labels, fontsize=5.5)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.grid(False, axis="y")
        axes.set_xlabel("ours / theirs")
        log_axis(axes.xaxis)
        point = {"linestyle": "", "marker": "o"}
        legend_above(
            axes,
            [
                Line2D([], [], color=BLUE, label="costs less, or reaches its goal", **point),
                Line2D([], [], color=VERMILLION, label="costs more, or misses it", **point),
                Line2D([], [], color=ORANGE, label="goal", linestyle="", **GOAL_MARK),
            ],
        )


def _good(row):
    return row.ratio <= 1 if row.goal is None else row.reached


def _lines(groups):
    """Yields (label, row) for every line of the figure; the row is None for a line of a heading."""
    for rows in groups.values():
        for what, ours in dict.fromkeys((row.what, row.ours) for row in rows):
            heading = f"{what}, {ours.removeprefix('advtf, ')}"
            yield from ((line, None) for line in textwrap.wrap(heading, HEADING_LETTERS))
            for row in rows:
                if (row.what, row.ours) == (what, ours):
                    unit = "" if row.unit == "s" else f" ({row.unit})"
                    yield f"{row.against}{unit}", row


def _conditions(results):
    machines = {_machine(result) for result in ordered(results).values()}
    return "; ".join(sorted(machines))


def _machine(result: Result) -> str:
    about = result.machine
    features = [each for each in about["features"] if "bf16" in each]
    gpus = f", {', '.join(about['gpus'])}" if about["gpus"] else ""
    return f"{about['cpu']}, {about['cores']} cores{f' ({chr(44).join(features)})' if features else ''}{gpus}"


def table(results: Mapping[str, Result]) -> str:
    """Returns all results as Markdown: per entry what it is, how it was measured, and a table of its rows."""
    parts = []
    for name, result in ordered(results).items():
        versions = {key: value for key, value in result.versions.items() if key not in ("advtf", "python")}
        told = ", ".join(f"{key} {value}" for key, value in versions.items())
        head = f"### {name}\n\n{result.about}\n\n```bash\n{result.command}\n```\n"
        rows = [
            "| what | ours | against | median (range) of ours / theirs | ours | theirs | goal |",
            "|---|---|---|---|---|---|---|",
            *map(_line, result.comparisons),
        ]
        rounds = f"{len(result.comparisons[0].pairs)} rounds" if result.comparisons else "nothing measured"
        parts.append("\n".join([head, *rows, "", f"{result.date}, {rounds}; {_machine(result)}; {told}."]))
    return "\n\n".join(parts)


def _line(row: Comparison) -> str:
    ours, other = (_cost(value, row.unit) for value in row.medians)
    ratio = f"**{_ratio(row.ratio)}** ({_ratio(min(row.ratios))} to {_ratio(max(row.ratios))})"
    goal = "" if row.goal is None else f"{_ratio(row.goal)}, {'reached' if row.reached else 'missed'}"
    what = f"{row.what} ({row.work})" if row.work else row.what
    return f"| {what} | {row.ours} | {row.against} | {ratio} | {ours} | {other} | {goal} |"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _cost(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value:.3g} s" if value >= 0.1 else f"{1000 * value:.3g} ms"
    return f"{value:.4g} {unit}" if not unit.startswith("%") else f"{value:.2f} %"


def write_table(results: Mapping[str, Result], page: Path) -> None:
    """Writes the table of all results between the two marks of a page.

    Raises:
        UsageError: the page lacks the marks.
    """
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UsageError(f"page must hold the lines {BEGIN} and {END}. Received: {page} without them.")
    page.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}")
