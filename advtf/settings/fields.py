"""How one setting is declared, read from text or JSON, and shown. No TensorFlow, no NumPy.

A dataclass field made by `setting` carries its parser, its section and its help; the flags, the JSON
reader and the printed plan are generated from that one declaration.
"""

import dataclasses
import math
import re
import typing
from collections.abc import Callable
from typing import Any

from advtf.errors import UsageError, nearest

_STEP = re.compile(r"(?P<factor>[^*e]*(?:e-?\d+)?)\*?eps(?:/(?P<divisor>.+))?")


@dataclasses.dataclass(frozen=True)
class Parser:
    """Reads one value from flag text, from JSON or from Python, and says what it accepts.

    `convert` is idempotent and raises ValueError, TypeError or ArithmeticError for a bad value.
    """

    convert: Callable[[Any], Any]
    requirement: str
    choices: tuple[str, ...] = ()
    boolean: bool = False


def setting(section: str, parser: Parser, description: str, default: Any = dataclasses.MISSING) -> Any:
    """Returns a dataclass field that is also a flag; without `default` its value comes from a preset."""
    return dataclasses.field(
        default=default, metadata={"section": section, "parser": parser, "help": description}
    )


def number(value: Any) -> float:
    """Returns a finite float from a number, its text, or a fraction such as ``8/255``.

    Raises:
        ValueError: not a finite number.
    """
    if isinstance(value, bool):
        raise ValueError("a boolean is not a number")
    if isinstance(value, str) and value.count("/") == 1:
        numerator, denominator = value.split("/")
        value = float(numerator) / float(denominator)
    result = float(value)
    if not math.isfinite(result):
        raise ValueError("not finite")
    return result


def real(low: float = 0.0, high: float = math.inf, *, open_low: bool = False) -> Parser:
    """A number, or a fraction such as 8/255, in [low, high], or in (low, high] with `open_low`."""

    def convert(value: Any) -> float:
        result = number(value)
        if not low <= result <= high or (open_low and result == low):
            raise ValueError("out of range")
        return result

    if high < math.inf:
        interval = f"in {'(' if open_low else '['}{low:g}, {high:g}]"
    else:
        interval = f"{'above' if open_low else 'of at least'} {low:g}"
    return Parser(convert, f"a number {interval} (decimal or fraction)")


def whole(low: int, high: int | None = None) -> Parser:
    """An integer from `low` to `high`."""

    def convert(value: Any) -> int:
        if not isinstance(value, (int, str)) or isinstance(value, bool):
            raise ValueError("not an integer")
        result = int(value)
        if result < low or (high is not None and result > high):
            raise ValueError("out of range")
        return result

    span = f"of at least {low}" if high is None else f"from {low} to {high}"
    return Parser(convert, f"a whole number {span}")


def choice(*names: str) -> Parser:
    """One of the given names."""

    def convert(value: Any) -> str:
        if value not in names:
            raise ValueError("unknown name")
        return value

    return Parser(convert, f"one of {', '.join(names)}", choices=names)


def switch() -> Parser:
    """A boolean; as flags ``--name`` and ``--noname``."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

    def convert(value: Any) -> bool:
        return value if isinstance(value, bool) else words[value.lower()]

    return Parser(convert, "true or false", boolean=True)


def text(pattern: str = r".+", requirement: str = "a non-empty text") -> Parser:
    """A string that matches `pattern` entirely."""

    def convert(value: Any) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError("pattern")
        return value

    return Parser(convert, requirement)


def numbers(requirement: str) -> Parser:
    """Comma-separated, strictly increasing numbers of at least 0; ``none`` is an empty list."""

    def convert(value: Any) -> tuple[float, ...]:
        if isinstance(value, str):
            value = [] if value.strip().lower() in ("", "none") else value.split(",")
        result = tuple(number(item) for item in value)
        if sorted(set(result)) != list(result) or min(result, default=0) < 0:
            raise ValueError("negative or not increasing")
        return tuple(int(item) if item >= 1 and item.is_integer() else item for item in result)

    return Parser(convert, f"{requirement}, strictly increasing")


def names(requirement: str) -> Parser:
    """Texts with commas between, each once; ``none`` is an empty list."""

    def convert(value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [] if value.strip().lower() in ("", "none") else value.split(",")
        result = tuple(item.strip() for item in value)
        if not all(result) or len(set(result)) < len(result):
            raise ValueError("empty or repeated")
        return result

    return Parser(convert, f"{requirement} with commas between, each once")


def step_size() -> Parser:
    """A step in pixels (``0.01``, ``2/255``) or in units of ε (``0.25eps``, ``eps/4``), as canonical text."""

    def convert(value: Any) -> str:
        compact = value.replace(" ", "").lower() if isinstance(value, str) else value
        match = _STEP.fullmatch(compact) if isinstance(compact, str) else None
        if match is None:
            result, unit = number(compact), ""
        else:
            result, unit = number(match["factor"] or 1) / number(match["divisor"] or 1), "eps"
        if not 0 < result < math.inf:
            raise ValueError("not positive")
        return f"{result!r}{unit}"

    return Parser(convert, "a positive size such as 0.01 or 2/255, or a part of ε such as eps/4 or 0.25eps")


def relative_step(step: str, epsilon: float) -> float:
    """Returns a step of `step_size` divided by ε; 1 for a length at ε = 0, where it has no effect."""
    if step.endswith("eps"):
        return float(step.removesuffix("eps"))
    return float(step) / epsilon if epsilon else 1.0


def is_optional(field: dataclasses.Field) -> bool:
    """Whether the declared type admits None."""
    return type(None) in typing.get_args(field.type)


def parse_value(field: dataclasses.Field, value: Any) -> Any:
    """Returns `value` as the field's type.

    Raises:
        UsageError: the field's parser refuses it.
    """
    parser = field.metadata["parser"]
    if is_optional(field) and (value is None or (value == "none" and "none" not in parser.choices)):
        return None
    try:
        return parser.convert(value)
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError):
        hint = nearest(value, parser.choices)
        raise UsageError(
            f"{field.name} must be {parser.requirement}. Received: {field.name}={value}.{hint}"
        ) from None


def normalise(settings: Any) -> None:
    """Parses every field of a frozen settings dataclass in place, from its ``__post_init__``.

    Raises:
        UsageError: a field's parser refuses its value.
    """
    for field in dataclasses.fields(settings):
        object.__setattr__(settings, field.name, parse_value(field, getattr(settings, field.name)))


def format_epsilon(value: float) -> str:
    """Returns ``8/255`` for a whole number of 255ths up to 64, a decimal such as ``0.4`` else."""
    levels = value * 255
    if round(value, 2) != value and 0 < value <= 64 / 255 and abs(levels - round(levels)) < 1e-9:
        return f"{round(levels)}/255"
    return f"{value:.4g}"
