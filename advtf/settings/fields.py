"""How one setting is declared, and how it is read once, from flag text, from JSON or from Python.

A setting is a dataclass field made by `setting`: it carries its parser, its section and its help text. The
flags, the JSON reader and the printed plan are generated from that one declaration. A dataclass of settings
derives from `Settings`, whose constructor parses every value, completes what was left open, and checks the
settings against each other. This module imports neither TensorFlow nor NumPy, so that a wrong flag is
answered at once.
"""

import dataclasses
import math
import re
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self

from advtf.errors import UsageError, nearest, show_text

FLOAT32_RANGE = (2.0**-126, 2.0**128 * (1 - 2.0**-24))  # the smallest normal and the largest number
_STEP = re.compile(r"(?P<factor>[^*e]*(?:e-?\d+)?)\*?eps(?:/(?P<divisor>.+))?")


class _Open:
    """The type of `OPEN`."""

    def __repr__(self) -> str:
        return "OPEN"


OPEN: Any = _Open()  # the default of a setting whose value follows from others, see `Settings.completed`


@dataclasses.dataclass(frozen=True)
class Parser:
    """Reads one value from flag text, from JSON or from Python, and says what it accepts.

    Attributes:
        convert: raises ValueError, TypeError, LookupError or ArithmeticError for a bad value. It accepts its
            own results, since JSON and `dataclasses.replace` hand them in again.
        requirement: what is accepted, as an error message says it.
        names: the names it chooses from, often a registry; it is read when it is needed, so that an entry
            registered later is accepted, too.
        boolean: whether the flag is written ``--name`` and ``--noname``.
    """

    convert: Callable[[Any], Any]
    requirement: str | Callable[[], str]
    names: Collection[str] = ()
    boolean: bool = False

    @property
    def choices(self) -> tuple[str, ...]:
        """The names it chooses from at this moment."""
        return tuple(self.names)


def setting(
    section: str,
    parser: Parser,
    description: str,
    default: Any = OPEN,
    default_text: str | None = None,
    *,
    earlier: Any = OPEN,
) -> Any:
    """Returns a dataclass field that is also a flag.

    Args:
        section: the heading of ``--help`` it is listed under.
        parser: reads its values.
        description: its help text.
        default: its value if nobody gives one; `OPEN` if that follows from other settings.
        default_text: what ``--help`` shows for the default; None shows the default itself.
        earlier: its value in files that were written before the setting existed: what the program did then,
            or a function of the settings in the file. `OPEN`: the files of every version have it.
    """
    metadata = {
        "section": section,
        "parser": parser,
        "help": description,
        "default_text": default_text,
        "earlier": earlier,
    }
    return dataclasses.field(default=default, metadata=metadata)


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
    """A number, or a fraction such as 8/255, in [low, high]; with `open_low` in (low, high].

    It must be 0 or within float32, in which it would become infinite or 0 otherwise.
    """

    def convert(value: Any) -> float:
        result = number(value)
        if not low <= result <= high or (open_low and result == low):
            raise ValueError("out of range")
        if result and not FLOAT32_RANGE[0] <= abs(result) <= FLOAT32_RANGE[1]:
            raise ValueError("not within float32")
        return result

    if high < math.inf:
        interval = f"in {'(' if open_low else '['}{low:g}, {high:g}]"
    else:
        interval = f"{'above' if open_low else 'of at least'} {low:g}, within float32"
    return Parser(convert, f"a number {interval} (decimal or fraction)")


def whole(low: int, high: int | None = None) -> Parser:
    """An integer from `low` to `high`; without one, below 2³¹, as TensorFlow counts in 32 bits."""

    def convert(value: Any) -> int:
        if not isinstance(value, (int, str)) or isinstance(value, bool):
            raise ValueError("not an integer")
        result = int(value)
        if not low <= result <= (2**31 - 1 if high is None else high):
            raise ValueError("out of range")
        return result

    span = f"of at least {low}, below 2^31" if high is None else f"from {low} to {high:,}"
    return Parser(convert, f"a whole number {span}")


def choice(names: Collection[str]) -> Parser:
    """One of `names`, a tuple of texts or a registry with such keys."""

    def convert(value: Any) -> str:
        if value not in tuple(names):
            raise ValueError("unknown name")
        return value

    return Parser(convert, lambda: f"one of {', '.join(names)}", names)


def switch() -> Parser:
    """A boolean; as flags ``--name`` and ``--noname``."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

    def convert(value: Any) -> bool:
        return value if isinstance(value, bool) else words[value.lower()]

    return Parser(convert, "true or false", boolean=True)


def text(pattern: str = r".*\S.*", requirement: str = "a non-empty text of printable characters") -> Parser:
    """A string of printable characters that matches `pattern` entirely."""

    def convert(value: Any) -> str:
        if not re.fullmatch(pattern, value) or not value.isprintable():
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

    return Parser(convert, f"{requirement}, at least 0 and strictly increasing")


def texts(requirement: str) -> Parser:
    """Texts with commas between, each once; ``none`` is an empty list."""

    def convert(value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [] if value.strip().lower() in ("", "none") else value.split(",")
        if not isinstance(value, (list, tuple)):
            raise TypeError("not a list")
        result = tuple(item.strip() for item in value)
        if not all(item and item.isprintable() for item in result) or len(set(result)) < len(result):
            raise ValueError("empty, invisible or repeated")
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
        required = parser.requirement if isinstance(parser.requirement, str) else parser.requirement()
        raise UsageError(
            f"{field.name} must be {required}. "
            f"Received: {field.name}={show_text(value)}.{_hint(value, parser.choices)}"
        ) from None


def _hint(value, choices):
    """Returns a hint for the first part of `value`, a text with commas, that is not one of the choices."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else [value]
    return next((nearest(part, choices) for part in parts if part not in choices), "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The base of every dataclass of settings: values are parsed, completed and checked when it is made.

    Values may be flag text (``eps="8/255"``) or values of the field's type.

    Raises:
        UsageError: a value that its parser refuses, or settings that contradict each other.
    """

    def __post_init__(self) -> None:
        fields = {field.name: field for field in dataclasses.fields(self)}
        values = {name: getattr(self, name) for name in fields}
        given = {
            name: parse_value(fields[name], value) for name, value in values.items() if value is not OPEN
        }
        for name, value in (given | dict(self.completed(given))).items():
            object.__setattr__(self, name, value)  # the only place where a frozen object is filled
        self.check()

    def completed(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the values of settings that were left open, and of those that follow from others.

        Args:
            given: the parsed values of all others.
        """
        return {}

    def check(self) -> None:
        """Checks the settings against each other.

        Raises:
            UsageError: two settings contradict each other.
        """

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Makes the settings from what a user chose; None means that a setting was not chosen.

        Raises:
            UsageError: an unknown setting, a bad value or contradictory settings.
        """
        _refuse_unknown(cls, given)
        return cls(**{name: value for name, value in given.items() if value is not None})

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Makes the settings from what `to_json` returned, in this version or an earlier one.

        Raises:
            UsageError: an unknown, missing or bad setting.
        """
        if not isinstance(values, Mapping):
            raise UsageError(f"{cls.__name__} must be a JSON object. Received: {type(values).__name__}.")
        earlier = {field.name: field.metadata["earlier"] for field in dataclasses.fields(cls)}
        missing = [name for name, value in earlier.items() if name not in values and value is OPEN]
        if missing:
            others = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise UsageError(
                f"{cls.__name__} needs every setting. Received: none for {', '.join(missing[:3])}{others}."
            )
        _refuse_unknown(cls, values)
        added = {name: value for name, value in earlier.items() if name not in values}
        added = {name: value(values) if callable(value) else value for name, value in added.items()}
        return cls(**added, **values)

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as JSON values."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def of_sections(self, *sections: str) -> dict[str, Any]:
        """Returns the settings of these sections by name."""
        fields = dataclasses.fields(self)
        return {
            field.name: getattr(self, field.name) for field in fields if field.metadata["section"] in sections
        }

    def identity(self, *sections: str) -> dict[str, Any]:
        """Returns what tells results of these settings from others: the settings of some sections, or all.

        A setting whose value is what the program did before the setting existed is left out, so that results
        from that time are continued.
        """
        fields = dataclasses.fields(self)
        chosen = [field for field in fields if not sections or field.metadata["section"] in sections]
        values = ((field, getattr(self, field.name)) for field in chosen)
        return {field.name: value for field, value in values if value != field.metadata["earlier"]}

    def require_same(self, given: Mapping[str, Any], noun: str) -> None:
        """Checks that what is given beside ``--resume`` only repeats the settings a run was started with.

        Args:
            given: setting -> value or flag text.
            noun: what the run is called.

        Raises:
            UsageError: a value differs.
        """
        fields = {field.name: field for field in dataclasses.fields(self)}
        for name, text in given.items():
            stored, value = getattr(self, name), parse_value(fields[name], text)
            if value != stored:
                raise UsageError(
                    f"--resume continues with the settings of the {noun}: {name}={show(stored)}. "
                    f"Received: {name}={show(value)}. Leave it out, or start another {noun}."
                )


def _refuse_unknown(cls: type, names: Collection[str]) -> None:
    known = [field.name for field in dataclasses.fields(cls)]
    for name in names:
        if name not in known:
            raise UsageError(f"{cls.__name__} has no such setting. Received: {name}.{nearest(name, known)}")


def show(value: Any) -> str:
    """Returns a setting's value as one would type it."""
    if isinstance(value, tuple):
        return ",".join(map(show, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
