"""A chapter: what a page tells of one folder. A file that is damaged becomes a notice in its place."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from advtf.errors import DiskFull, UsageError, first_line
from advtf.reports.html import Html, notice


@dataclass(frozen=True)
class Row:
    """A line of the table that compares the folders of a page.

    Attributes:
        classifier: which one was measured, in a word or two.
        about: the data, the number of images, the attack and its ε; "" if nothing was measured.
        clean_error: in percent, or None.
        robust_error: in percent, or None.
        remark: what a reader must know to compare it, such as that a run is not finished.
    """

    classifier: str
    about: str = ""
    clean_error: float | None = None
    robust_error: float | None = None
    remark: str = ""


@dataclass
class Chapter:
    """What a page tells of one folder.

    Attributes:
        kind: of the folder, such as "training".
        path: of the folder.
        name: the heading.
        lead: one sentence below it.
        tiles: the numbers that matter most: what each is, the number, and a remark.
        parts: headings and what stands below them.
        rows: its lines in the table that compares several folders.
        problems: what could not be read, one line each.
    """

    kind: str
    path: Path
    name: str
    lead: object = ""
    tiles: list[tuple[str, Html, object]] = field(default_factory=list)
    parts: list[tuple[str, Html]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, title: str, build: Callable[[], Html | None], source: Path) -> None:
        """Adds a part, or a notice in its place where its file cannot be read.

        Args:
            title: its heading.
            build: makes what stands below it; None means that there is nothing to tell.
            source: the file that it is made from, for the notice.
        """
        content = self.attempt(build, source)
        if content:
            self.parts.append((title, content))

    def attempt(self, build: Callable[[], Html | None], source: Path) -> Html | None:
        """Returns what `build` makes, or a notice where the file `source` cannot be read."""
        try:
            return build()
        except DiskFull:
            raise
        except Exception as error:  # damage shows as almost any, such as where a list stands for a dict
            told = isinstance(error, UsageError)
            problem = str(error) if told else f"{source} is damaged: {_reason(error)}."
            self.problems.append(" ".join(problem.split()))
            return notice(self.problems[-1])


def _reason(error: Exception) -> str:
    return f"no {error.args[0]}" if type(error) is KeyError and error.args else first_line(error)
