"""A table of many runs that is drawn again while they work; plain lines where nobody watches a terminal."""

import shutil
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from launch.common.driver import Outcome

DRAW_SECONDS = 1.0
STATUS_SECONDS = 600.0  # between two lines about the whole where stdout is not a terminal
CELLS = 20  # of the bar of a run
MARKS = {"finished": "✓", "failed": "✗", "stopped": "■", "busy": "…", "waiting": " ", "running": "▶"}


def duration(seconds: float) -> str:
    """Returns ``41 s``, ``12 min`` or ``3 h 05 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


class LiveTable:
    """Shows how far the runs are: a line for each event, and on a terminal a table that is drawn over.

    Args:
        outcomes: of the runs; they are read whenever something is drawn.
    """

    def __init__(self, outcomes: Sequence["Outcome"]):
        self.outcomes, self._live = outcomes, sys.stdout.isatty()
        self.width = max((len(outcome.run.name) for outcome in outcomes), default=0) + 2
        self._began, self._drawn, self._height = time.monotonic(), time.monotonic(), 0
        self._before = self._share()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._erase()

    def say(self, line: str) -> None:
        """Prints a line above the table."""
        self._erase()
        print(line, flush=True)
        self._draw_now() if self._live else None

    def draw(self) -> None:
        """Draws the table where that is due."""
        if time.monotonic() - self._drawn < (DRAW_SECONDS if self._live else STATUS_SECONDS):
            return
        self._erase()
        if self._live:
            self._draw_now()
        else:
            print(self.summary(), flush=True)
        self._drawn = time.monotonic()

    def summary(self) -> str:
        """Returns how many runs are in which state, and when the last one will have ended."""
        states = [outcome.state for outcome in self.outcomes]
        counted = [f"{states.count(state)} {state}" for state in MARKS if state in states]
        elapsed = time.monotonic() - self._began
        done = self._share() - self._before
        left = sum(1 - outcome.share for outcome in self.outcomes)
        eta = f", ETA {duration(elapsed / done * left)}" if done > 0.01 and left else ""
        return f"{len(states)} runs: {', '.join(counted)}; {duration(elapsed)}{eta}"

    def rows(self, most: int) -> list[str]:
        """Returns a line for each run, or where they are more than `most`, for the first that are not
        done."""
        shown = list(self.outcomes)
        if len(shown) > most:
            shown = [each for each in shown if each.state not in ("finished", "failed")][:most]
        return [self._row(outcome) for outcome in shown]

    def _row(self, outcome):
        filled = round(CELLS * outcome.share)
        bar = "━" * filled + "─" * (CELLS - filled)
        text = f"{MARKS[outcome.state]} {outcome.run.name:<{self.width}}{bar} {outcome.state:<9}"
        if outcome.run.epochs and outcome.state in ("running", "busy", "stopped"):
            text += f"epoch {min(outcome.run.epochs_done() + 1, outcome.run.epochs)}/{outcome.run.epochs}"
        return text + (f"  {duration(outcome.elapsed)}" if outcome.elapsed else "")

    def _share(self):
        return sum(outcome.share for outcome in self.outcomes)

    def _draw_now(self):
        size = shutil.get_terminal_size((100, 24))
        lines = [*self.rows(max(1, size.lines - 3)), self.summary()]
        lines = [line[: size.columns - 1] for line in lines]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        self._height = len(lines)

    def _erase(self):
        if self._height:
            sys.stdout.write(
                f"\x1b[{self._height}F\x1b[J"
            )  # up to the first of its lines, and clear the rest
            self._height = 0
