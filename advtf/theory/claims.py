"""What a check of the theory returns: a statement, whether it holds, and what was measured."""

from dataclasses import dataclass, field

ROUNDING = 1e-12  # relative: of sums over the examples in float64


@dataclass(frozen=True)
class Claim:
    """A statement and whether it holds numerically.

    Attributes:
        source: equation, proposition or theorem.
        statement: in words.
        holds: on everything that was tried.
        measured: what that was, for people.
        values: the numbers, for files.
    """

    source: str
    statement: str
    holds: bool
    measured: str
    values: dict = field(default_factory=dict)
