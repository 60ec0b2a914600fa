"""The page of all results and its figures, made from the stored results and the declarations alone.

`write` is the whole of it. Nothing on the page is typed by hand but its explanations: numbers, intervals and
verdicts are computed from the files of the ledger each time.
"""

import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from advtf.errors import quantity
from advtf.storage.files import write_atomically
from launch.common.live import duration
from launch.reproduce import ledger
from launch.reproduce.columns import YES_OR_NO, heading
from launch.reproduce.entry import Chart, Entry
from launch.reproduce.ledger import Stored
from launch.reproduce.registry import ENTRIES, PAPERS
from launch.reproduce.scales import SCALES, Scale
from launch.reproduce.verdicts import FAILS, HOLDS, OPEN, Measured, Verdict, decide, describe, number

FIGURES = "figures/ledger"
WHOLE = ("epoch", "update", "number")  # axes of whole numbers
SHOWN = ("full", "mini")  # scales of the page; smoke says nothing
SHORT = {HOLDS: "holds", FAILS: "does not hold", OPEN: "cannot be judged"}
NOT_MEASURED = "not measured"
HIDDEN = ("_se", "_low", "_high")  # of intervals within a run, which stand beside the verdicts
TITLE = """# Both papers, claim by claim

*Written by `python -m launch.reproduce --report` from the files in `docs/results/ledger`; do not edit.*

Every table, figure and claim of two papers, with our numbers beside the published ones and a verdict. A
verdict is a function of what was measured:

- **holds**: the whole 95 % interval of the effect lies on the side that is claimed;
- **does not hold**: the interval excludes the effect that is claimed;
- **cannot be judged** at this scale: the interval contains both, nothing gives an interval, or the phenomenon
  that the claim is about was not seen. The reason is told in each case.

An effect is positive in the direction that is claimed, and its interval follows in brackets, with what it is
an interval over. Differences of errors and accuracies are in points, those of losses in nats; × is a ratio,
for a trend that of the values at its two ends. Where a claim names a bound, the effect is the value that was
measured, and the reason names the bound.

Over several seeds the interval is Student's t of the differences of runs with the same seed. With one seed
there is none; where an error of one run is compared, its interval over the test images is used and named,
which does not know how far another seed would stray. A trend over levels such as ε is tested exactly, by all
orders of the levels: it holds where p < 0.05, one-sided, and it does not hold where the opposite trend has
such a p. One seed needs four levels in perfect order for that (p = 1/24). Where a run has failed, a claim
about all levels, methods or widths cannot be judged, unless the others refute it.
"""


def write(folder: Path, page: Path, scale: str | None = None) -> list[Path]:
    """Writes the page, and its figures in ``figures/ledger`` beside it.

    Args:
        folder: of the results.
        page: Markdown file.
        scale: the only one that is shown; None shows all of `SHOWN` that have results.

    Returns:
        The files that were written, the page first.
    """
    results = _read(folder, (scale,) if scale else SHOWN)
    page.parent.mkdir(parents=True, exist_ok=True)
    text = markdown(results)
    write_atomically(page, lambda file: file.write(text.encode()))
    return [page, *_draw(results, page.parent / FIGURES)]


Results = Mapping[str, Mapping[str, Stored]]


def _read(folder: Path, scales: Iterable[str]) -> dict[str, dict[str, Stored]]:
    """Returns scale -> key of an entry -> its results, of the scales that have any."""
    found = {}
    for scale in scales:
        stored = {entry.key: ledger.read(folder, scale, entry) for entry in ENTRIES}
        if any(each.seeds for each in stored.values()):
            found[scale] = {key: each for key, each in stored.items() if each.seeds}
    return found


def markdown(results: Results) -> str:
    """Returns the page."""
    parts = [TITLE]
    for scale in results:
        parts.append(f"**{scale}**: {SCALES[scale].about}\n")
    parts += ["## All claims\n", "\n".join(_summary(results)) + "\n"]
    for paper, title in PAPERS.items():
        parts.append(f"## {title} {{ #{paper} }}\n")
        for entry in ENTRIES:
            if entry.paper == paper:
                parts.append("\n".join(_section(entry, results)) + "\n")
    return "\n".join(parts)


def _verdicts(entry: Entry, stored: Stored | None) -> list[Verdict]:
    measured = stored.measured if stored else Measured({})
    return [decide(claim.judge, measured) for claim in entry.claims]


def _summary(results: Results) -> Iterator[str]:
    """Yields a table with a row for each claim and a pair of columns for each scale."""
    if not results:
        yield "Nothing has been measured yet."
        return
    for scale, found in results.items():
        judged = [v for entry in ENTRIES if entry.key in found for v in _verdicts(entry, found[entry.key])]
        total = sum(len(entry.claims) for entry in ENTRIES)
        held, failed, opened = (sum(v.result == result for v in judged) for result in (HOLDS, FAILS, OPEN))
        rest = total - len(judged)
        told = [
            f"{held} {'holds' if held == 1 else 'hold'}",
            f"{failed} {'does' if failed == 1 else 'do'} not hold",
            f"{opened} cannot be judged",
            *([f"{rest} {'has' if rest == 1 else 'have'} not been measured"] if rest else ()),
        ]
        yield f"At {scale}, of {total} claims {', '.join(told[:-1])}, and {told[-1]}.\n"
    heads = "".join(f" {scale} | effect | seeds |" for scale in results)
    yield f"| where | claim |{heads}"
    yield "|---|---|" + "---|---|---|" * len(results)
    for entry in ENTRIES:
        found = {scale: _verdicts(entry, stored.get(entry.key)) for scale, stored in results.items()}
        for place, claim in enumerate(entry.claims):
            cells = ""
            for scale, stored in results.items():
                verdict, seeds = found[scale][place], stored.get(entry.key)
                if seeds:
                    cells += f" {_bold(verdict)} | {describe(verdict)} | {len(seeds.seeds)} |"
                else:
                    cells += f" {NOT_MEASURED} | – | – |"
            yield f"| {_link(entry)} | {claim.text} |{cells}"


def _link(entry):
    paper = {"liu2020": "Liu", "li2023": "Li"}[entry.paper]
    place, rest = _place(entry)
    alike = [other for other in ENTRIES if other.paper == entry.paper and _place(other)[0] == place]
    return f"[{paper}, {place}](#{entry.key}){f', {rest}' if len(alike) > 1 else ''}"


def _place(entry):
    """Returns where an entry stands in its paper, and what of it the entry is."""
    place, _, rest = entry.title.partition(", ")
    return place, rest


def _bold(verdict):
    short = SHORT[verdict.result]
    return short if verdict.result == OPEN else f"**{short}**"


def _section(entry: Entry, results: Results) -> Iterator[str]:
    yield f"### {entry.title} {{ #{entry.key} }}\n"
    if entry.note:
        yield f"{entry.note}\n"
    if not results:
        yield from (f"- {claim.text}" for claim in entry.claims)
        yield ""
    for scale, stored in results.items():
        if len(results) > 1:
            yield f"#### {scale} {{ #{entry.key}-{scale} }}\n"
        reason = SCALES[scale].without.get(entry.key)
        if reason:
            yield f"Not at this scale: {reason}\n"
        if entry.key in stored:
            yield from _claims(entry, stored[entry.key])
            yield from _measured(entry, scale, stored[entry.key])
        else:
            yield "Not measured yet. The claims:\n" if not reason else "The claims:\n"
            yield from (f"- {claim.text}" for claim in entry.claims)
            yield ""


def _claims(entry: Entry, stored: Stored) -> Iterator[str]:
    yield "| claim | verdict | effect | why |"
    yield "|---|---|---|---|"
    for claim, verdict in zip(entry.claims, _verdicts(entry, stored), strict=True):
        yield f"| {claim.text} | {_bold(verdict)} | {describe(verdict)} | {' '.join(verdict.reasons)} |"
    yield ""


def _measured(entry: Entry, scale: str, stored: Stored) -> Iterator[str]:
    yield from _table(entry, stored.measured)
    for chart in entry.charts:
        if any(chart in record["curves"] for record in stored.seeds.values()):
            yield f"![{entry.charts[chart].title}]({FIGURES}/{_picture(scale, entry, chart)})\n"
    missing = sum(not run["finished"] for record in stored.seeds.values() for run in record["runs"])
    if missing:
        verb, their = ("has", "its") if missing == 1 else ("have", "their")
        yield f"{quantity(missing, 'run')} {verb} failed, so that {their} numbers are missing.\n"
    yield from _details(stored)


def _picture(scale: str, entry: Entry, chart: str) -> str:
    return f"{scale}-{entry.key}-{chart}.png"


def _table(entry: Entry, measured: Measured) -> Iterator[str]:
    """Yields all values, ours as mean ± standard deviation over seeds (published), in one table or several.

    Rows that have a column in common are in one table.
    """
    by_row: dict[str, list[str]] = {}
    for name in dict.fromkeys([*measured.names(), *entry.published]):
        if not name.endswith(HIDDEN):
            row, _, column = name.rpartition(":")
            by_row.setdefault(row, []).append(column)
    groups: list[dict[str, list[str]]] = []
    for row, columns in by_row.items():
        joined = {row: columns}
        for group in [each for each in groups if set(columns) & {c for own in each.values() for c in own}]:
            groups.remove(group)
            joined = group | joined
        groups.append(joined)
    if groups:
        several = ", mean ± standard deviation over seeds" if len(measured.by_seed) > 1 else ""
        published = "; published numbers in brackets" if entry.published else ""
        yield f"Measured{several}{published}:\n"
    for group in groups:
        columns = list(dict.fromkeys(column for own in group.values() for column in own))
        yield f"| | {' | '.join(map(heading, columns))} |"
        yield "|---" + "|---:" * len(columns) + "|"
        for row in group:
            cells = (_cell(entry, measured, f"{row}:{column}" if row else column) for column in columns)
            yield f"| {heading(row)}{_of_seeds(measured, row)} | {' | '.join(cells)} |"
        yield ""


def _of_seeds(measured: Measured, row: str) -> str:
    """Returns in brackets how many of the seeds have a row, if it is neither all of them nor none."""
    begin, seeds = f"{row}:" if row else "", len(measured.by_seed)
    count = sum(any(name.startswith(begin) for name in values) for values in measured.by_seed.values())
    return f" ({count} of {quantity(seeds, 'seed')})" if 0 < count < seeds else ""


def _cell(entry: Entry, measured: Measured, name: str) -> str:
    values = [values.get(name) for values in measured.by_seed.values()]
    if name.rpartition(":")[2] in YES_OR_NO:
        return ", ".join(dict.fromkeys("" if value is None else ("no", "yes")[value] for value in values))
    ours = _spread(values)
    if name not in entry.published:
        return ours
    mean, deviation = entry.published[name]
    theirs = f"{mean:g}" + (f" ± {deviation:g}" if deviation is not None else "")
    return f"{ours or '–'} ({theirs})"


def _spread(values: list) -> str:
    """Returns ``8.33 ± 0.41``, the second with as many decimals as the first unless it would be 0."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    deviation = statistics.stdev(known) if len(known) > 1 else 0.0
    if not deviation:
        return _plain(known[0])
    mean = number(statistics.mean(known))
    rounded = f"{deviation:.{len(mean.partition('.')[2])}f}"
    return f"{mean} ± {rounded if 'e' not in mean and float(rounded) else number(deviation)}"


def _plain(value: float) -> str:
    return f"{int(value):,}".replace("-", "−") if float(value).is_integer() else number(value)


def _details(stored: Stored) -> Iterator[str]:
    """Yields the commands of the first seed, and what all seeds took."""
    first = next(iter(stored.seeds.values()))
    runs = [run for record in stored.seeds.values() for run in record["runs"]]
    taken = duration(sum(run["seconds"] or 0.0 for run in runs))
    seeds = ", ".join(str(seed) for seed in stored.seeds)
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    counted = "Seed" if len(stored.seeds) == 1 else "Seeds"
    yield f'<details markdown="1"><summary>{counted} {seeds}; {_threads(runs)}; {taken} in all</summary>\n'
    yield "The time includes runs that other entries share."
    yield f"Versions: {versions}. The commands of seed {next(iter(stored.seeds))} are:\n"
    yield "```bash"
    for run in first["runs"]:
        took = "" if run["seconds"] is None else f"  # {duration(run['seconds'])}"
        yield f"{run['command']}{took}"
    yield "```\n\n</details>\n"


def _threads(runs: list[Mapping]) -> str:
    """Returns with how many threads the runs were made; files of earlier versions do not tell."""
    told = [run.get("threads") or [] for run in runs]
    numbers = sorted({number for each in told for number in each})
    if not numbers:
        return "number of threads not recorded"
    shown = f"{' or '.join(map(str, numbers))} {'thread' if numbers == [1] else 'threads'} each"
    unknown = sum(not each for each in told)
    return f"{shown} (not recorded of {quantity(unknown, 'run')})" if unknown else shown


def _draw(results: Results, folder: Path) -> Iterator[Path]:
    for scale, stored in results.items():
        for entry in ENTRIES:
            for name, chart in entry.charts.items():
                seeds = stored[entry.key].seeds if entry.key in stored else {}
                curves = [record["curves"][name] for record in seeds.values() if name in record["curves"]]
                if curves:
                    yield draw(chart, curves, SCALES[scale], folder / _picture(scale, entry, name))


def draw(chart: Chart, seeds: list[Mapping], scale: Scale, output: Path) -> Path:
    """Draws the curves of one chart: the mean over seeds, and pale the single seeds.

    Args:
        chart: its title and axes.
        seeds: label -> {"x", "y"} for each seed.
        scale: which is told in the heading.
        output: .png file.

    Returns:
        `output`.
    """
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    from advtf.figures.style import Heading, color_handles, legend_above, log_axis, sheet

    output.parent.mkdir(parents=True, exist_ok=True)
    looks, legends = _looks(list(dict.fromkeys(label for seed in seeds for label in seed)))
    uneven = any(seed.keys() != seeds[0].keys() for seed in seeds)
    count = f", mean of {'up to ' * uneven}{len(seeds)} seeds" if len(seeds) > 1 else ", one seed"
    with sheet(output, Heading(chart.title, f"Scale {scale.name}{count}"), rows=1, height=2.4,
               shared=False) as (axes,):  # fmt: skip
        for label, (color, line) in looks.items():
            found = [seed[label] for seed in seeds if label in seed]
            arrays = [(_array(np, each["x"]), _array(np, each["y"])) for each in found]
            if chart.points:
                for x, y in arrays:
                    axes.plot(x, y, color=color, linestyle="", marker="o")
                continue
            shown = "o" if len(arrays[0][0]) < 12 else None
            if len(arrays) > 1:
                for x, y in arrays:
                    axes.plot(x, y, color=color, linestyle=line, alpha=0.25, linewidth=0.6)
            if all(np.array_equal(x, arrays[0][0]) for x, _ in arrays):
                mean = np.mean([y for _, y in arrays], axis=0)
                axes.plot(arrays[0][0], mean, color=color, linestyle=line, marker=shown)
        axes.set_xlabel(chart.x)
        if chart.x in WHOLE:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(chart.y)
        for wanted, axis in ((chart.log, axes.yaxis), (chart.log_x, axes.xaxis)):
            if wanted:
                log_axis(axis)
        if chart.points:
            legends = [color_handles({heading(label): color for label, (color, _) in looks.items()})]
        if len(looks) > 1:
            legend_above(axes, *legends)
    return output


def _looks(labels: list[str]) -> tuple[dict[str, tuple[str, str]], list[list]]:
    """Returns the colour and line of each label, and the groups of a legend.

    Labels of two parts, such as ``constant, ε = 0.1``, have the colour of the part that has more values and
    the line of the other.
    """
    from advtf.figures.style import BLACK, RUN_COLORS, color_handles, line_handles

    lines = ("-", "--", ":")
    pairs = [tuple(label.split(", ")) for label in labels]
    if all(len(pair) == 2 for pair in pairs):
        parts = [list(dict.fromkeys(each)) for each in zip(*pairs, strict=True)]
        first_colors = len(parts[0]) >= len(parts[1])
        colored, lined = parts if first_colors else reversed(parts)
        if 1 < len(lined) <= len(lines) and len(colored) <= len(RUN_COLORS):
            color, line = dict(zip(colored, RUN_COLORS, strict=False)), dict(zip(lined, lines, strict=False))
            ordered = pairs if first_colors else [pair[::-1] for pair in pairs]
            looks = {
                label: (color[one], line[other]) for label, (one, other) in zip(labels, ordered, strict=True)
            }
            shapes = {heading(part): (BLACK, look) for part, look in line.items()}
            return looks, [
                color_handles({heading(part): look for part, look in color.items()}),
                line_handles(shapes),
            ]
    looks = {
        label: (RUN_COLORS[place % len(RUN_COLORS)], lines[place // len(RUN_COLORS) % len(lines)])
        for place, label in enumerate(labels)
    }
    return looks, [line_handles({heading(label): look for label, look in looks.items()})]


def _array(np, values):
    return np.array([np.nan if value is None else value for value in values], np.float64)
