"""The page of all results and its figures, made from the stored results and the declarations alone.

`write` is the whole of it. Nothing on the page is typed by hand but its explanations: numbers, intervals and
verdicts are computed from the files of the ledger each time.
"""

import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from advtf.storage.files import write_atomically
from launch.common.live import duration
from launch.reproduce import ledger
from launch.reproduce.entry import Chart, Entry
from launch.reproduce.ledger import Stored
from launch.reproduce.registry import ENTRIES, PAPERS
from launch.reproduce.scales import SCALES, Scale
from launch.reproduce.verdicts import FAILS, HOLDS, OPEN, Measured, Verdict, decide, describe, number

FIGURES = "figures/ledger"
WHOLE = ("epoch", "update", "number")  # axes of whole numbers
SHOWN = ("full", "mini")  # scales of the page; smoke says nothing
SHORT = {HOLDS: "holds", FAILS: "does not hold", OPEN: "cannot be judged"}
COLUMNS = {  # of tables, by the names of values
    "clean_error": "clean error (%)",
    "pgd_error": "PGD error (%)",
    "pgd": "PGD (%)",
    "pgd100": "PGD-100 (%)",
    "apgd_ce": "APGD-CE (%)",
    "apgd_dlr": "APGD-DLR (%)",
    "square": "Square (%)",
    "autoattack": "AutoAttack (%)",
    "evaluated_clean_error": "clean, attacked images (%)",
    "examples": "test images",
    "attacked_images": "attacked images",
    "gap": "best − end against PGD (points)",
    "clean_best": "clean accuracy, best (%)",
    "clean_end": "clean accuracy, end (%)",
    "robust_best": "robust accuracy, best (%)",
    "robust_end": "robust accuracy, end (%)",
    "robust_gap": "best − end (points)",
    "ig": "IG",
    "hs": "HS",
    "ig_train": "IG, training",
    "ig_test": "IG, test",
    "hs_train": "HS, training",
    "hs_test": "HS, test",
    "av_train": "AV, training",
    "av_test": "AV, test",
    "av_gap": "AV, test − training",
    "adv_gap": "adversarial loss, test − training",
    "effectiveness_train": "effectiveness, training",
    "effectiveness_test": "effectiveness, test",
    "gradient_norm_first": "first gradient norms",
    "gradient_norm_last": "last gradient norms",
    "distance_first": "first distance from the start",
    "distance_last": "last distance from the start",
    "lambda_1": "λ₁",
    "lambda_last": "last λ",
    "lambda_1_normalised": "λ₁, normalised",
    "random_loss": "loss at random θ",
    "robust_apgd": "robust accuracy, APGD-CE (%)",
    "step_ratio": "step relative to the baseline",
    "rho": "Spearman's ρ",
    "rho_ig": "ρ with IG",
    "rho_hs": "ρ with HS",
    "fgsm": "effectiveness of FGSM",
    "pgd10": "effectiveness of PGD-10",
}
NOT_MEASURED = "not measured"
HIDDEN = ("_se", "_low", "_high")  # of intervals within a run, which stand beside the verdicts
TITLE = """# Both papers, claim by claim

*Written by `python -m launch.reproduce --report` from the files in `docs/results/ledger`; do not edit.*

Every table, figure and claim of two papers, with our numbers beside the published ones and a verdict. A
verdict is a function of what was measured:

- **holds**: the whole 95 % interval of the effect lies on the side that is claimed;
- **does not hold**: the interval excludes the effect that is claimed;
- **cannot be judged** at this scale: the interval contains both, or the phenomenon that the claim is about
  was not seen, which is said in each case.

Over several seeds the interval is Student's t of the differences of runs with the same seed. Of one seed
there is none; where an error of one run is compared, its interval over the test images is used and named,
which does not know how far another seed would stray. Trends over levels such as ε are tested exactly, by all
orders of the levels. Effects are positive in the direction that is claimed.
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
        counted = {SHORT[result]: sum(v.result == result for v in judged) for result in SHORT}
        counted[NOT_MEASURED] = total - len(judged)
        yield f"{scale}, {total} claims: {', '.join(f'{n} {word}' for word, n in counted.items() if n)}.\n"
    heads = "".join(f" {scale} | effect | seeds |" for scale in results)
    yield f"| | claim |{heads}"
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
    number, _, rest = entry.title.partition(", ")
    return f"[{paper}, {number}](#{entry.key}){f', {rest}' if number == 'Table 1' else ''}"


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
        yield f"{missing} of the runs have failed; their numbers are missing.\n"
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
        published = " (published)" if entry.published else ""
        several = ", mean ± standard deviation over seeds" if len(measured.by_seed) > 1 else ""
        yield f"Ours{several}{published}:\n"
    for group in groups:
        columns = list(dict.fromkeys(column for own in group.values() for column in own))
        headings = (COLUMNS.get(column, column.replace("_", " ")) for column in columns)
        yield f"| | {' | '.join(headings)} |"
        yield "|---" + "|---:" * len(columns) + "|"
        for row in group:
            cells = (_cell(entry, measured, f"{row}:{column}" if row else column) for column in columns)
            yield f"| {row} | {' | '.join(cells)} |"
        yield ""


def _cell(entry: Entry, measured: Measured, name: str) -> str:
    ours = _spread([values.get(name) for values in measured.by_seed.values()])
    if name not in entry.published:
        return ours
    mean, deviation = entry.published[name]
    theirs = f"{mean:g}" + (f" ± {deviation:g}" if deviation is not None else "")
    return f"{ours or '–'} ({theirs})"


def _spread(values: list) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean = _plain(statistics.mean(known))
    return f"{mean} ± {_plain(statistics.stdev(known))}" if len(known) > 1 else mean


def _plain(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) or float(value).is_integer() else number(value)


def _details(stored: Stored) -> Iterator[str]:
    """Yields the commands of the first seed, and what all seeds took."""
    first = next(iter(stored.seeds.values()))
    taken = sum(run["seconds"] or 0.0 for record in stored.seeds.values() for run in record["runs"])
    seeds = ", ".join(str(seed) for seed in stored.seeds)
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    yield f'<details markdown="1"><summary>Seeds {seeds}; runs of {duration(taken)} in all</summary>\n'
    yield "Runs that other entries share count here, too. "
    yield f"Versions: {versions}. Commands of seed {next(iter(stored.seeds))}:\n"
    yield "```bash"
    for run in first["runs"]:
        took = "" if run["seconds"] is None else f"  # {duration(run['seconds'])}"
        yield f"{run['command']}{took}"
    yield "```\n\n</details>\n"


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

    from advtf.figures.style import RUN_COLORS, Heading, legend_above, line_handles, log_axis, sheet

    output.parent.mkdir(parents=True, exist_ok=True)
    labels = list(dict.fromkeys(label for seed in seeds for label in seed))
    lines = ("-", "--", ":")
    looks = {
        label: (RUN_COLORS[place % len(RUN_COLORS)], lines[place // len(RUN_COLORS) % len(lines)])
        for place, label in enumerate(labels)
    }
    count = f", mean of {len(seeds)} seeds" if len(seeds) > 1 else ", one seed"
    with sheet(output, Heading(chart.title, f"Scale {scale.name}{count}"), rows=1, height=2.4,
               shared=False) as (axes,):  # fmt: skip
        for label, (color, line) in looks.items():
            found = [seed[label] for seed in seeds if label in seed]
            arrays = [(_array(np, each["x"]), _array(np, each["y"])) for each in found]
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
        if chart.log:
            log_axis(axes.yaxis)
        legend_above(axes, line_handles(looks))
    return output


def _array(np, values):
    return np.array([np.nan if value is None else value for value in values], np.float64)
