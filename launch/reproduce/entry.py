"""What an entry of the ledger is: a table or a figure of a paper, its runs, what is measured, its claims."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from launch.common.runs import Run
from launch.reproduce.verdicts import Judge

if TYPE_CHECKING:
    from launch.reproduce.plan import Lab, Planned

DIGITS = 6  # significant ones of what the ledger keeps


@dataclass(frozen=True)
class Claim:
    """One thing that the paper says, and how it is judged.

    Attributes:
        text: a sentence.
        judge: makes the verdict from what was measured.
    """

    text: str
    judge: Judge


@dataclass(frozen=True)
class Chart:
    """A figure of the report, which is drawn from the curves of one name.

    Attributes:
        title: what is shown.
        x, y: labels of the axes, with units.
        log: whether the y axis is logarithmic.
        log_x: whether the x axis is.
        points: whether single points are shown, and neither lines nor a mean over seeds.
    """

    title: str
    x: str
    y: str
    log: bool = False
    log_x: bool = False
    points: bool = False


class Record:
    """What an entry measures with one seed.

    Attributes:
        values: ``<row>:<column>`` or a plain name -> number; None where it is not defined.
        curves: chart -> label -> {"x": numbers, "y": numbers}.
    """

    def __init__(self) -> None:
        self.values: dict[str, float | None] = {}
        self.curves: dict[str, dict[str, dict[str, list]]] = {}

    def put(self, row: str, **columns: Any) -> None:
        """Adds the numbers of a row of a table; those without a row have an empty one."""
        for column, value in columns.items():
            self.values[f"{row}:{column}" if row else column] = rounded(value)

    def expect(self, rows: Iterable[str], *columns: str) -> None:
        """Notes numbers that are to be measured: they are None until they are put.

        Claims about all rows, such as all levels of ε, learn in this way of a row whose run has failed.
        """
        for row in rows:
            for column in columns:
                self.values.setdefault(f"{row}:{column}", None)

    def curve(self, chart: str, label: str, x: Iterable, y: Iterable) -> None:
        """Adds a curve to a chart."""
        points = {"x": [rounded(value) for value in x], "y": [rounded(value) for value in y]}
        self.curves.setdefault(chart, {})[label] = points


def rounded(value: Any) -> float | int | None:
    """Returns a number to `DIGITS` significant digits; None for what is not finite."""
    if value is None or not np.isfinite(value):
        return None
    number = float(f"{float(value):.{DIGITS - 1}e}")
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


@dataclass(frozen=True, eq=False)
class Entry:
    """A table or a figure of a paper.

    Attributes:
        paper: "liu2020" or "li2023".
        name: such as "table1-mnist"; ``--only=table1`` means all whose names begin with "table1-".
        title: where it stands in the paper, and what of it this entry is.
        runs: makes the runs of one seed from a `launch.reproduce.plan.Lab`, by names of the entry's own.
        measure: fills a `Record` from those of the runs that are finished, by the same names.
        claims: what the paper says.
        published: name of a value -> mean and standard deviation, or mean and None.
        charts: figures of the report by name.
        note: what a reader must know of this entry, in whole sentences.
        seeded: whether another seed gives other numbers. A computation without random numbers has one seed.
    """

    paper: str
    name: str
    title: str
    runs: Callable[["Lab"], dict[str, "Planned"]]
    measure: Callable[[Mapping[str, Run], Record], None]
    claims: tuple[Claim, ...]
    published: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)
    charts: Mapping[str, Chart] = field(default_factory=dict)
    note: str = ""
    seeded: bool = True

    @property
    def key(self) -> str:
        """Its name among those of all papers, such as ``liu2020-table1-mnist``."""
        return f"{self.paper}-{self.name}"


def published_row(row: str, columns: Sequence[str], numbers: Sequence) -> dict[str, tuple]:
    """Returns published numbers of a row by the names of values; a number alone has no deviation."""
    pairs = (each if isinstance(each, tuple) else (each, None) for each in numbers)
    named = zip(columns, pairs, strict=True)
    return {f"{row}:{column}": pair for column, pair in named if pair[0] is not None}
