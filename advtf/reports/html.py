"""HTML from Python: elements, tables, numbers. Text that is not `Html` already is escaped, always."""

import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

EMPTY_TAGS = ("img", "meta")
# Control characters, halves of surrogates (of file names that are not UTF-8) and marks of direction, with
# which a name could look like another one.
UNSHOWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
NOTHING = "–"
TALL = 8  # rows of a table that may go over two printed pages
LONG = 24  # characters of a cell that is not squeezed into a column of single words


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(value: object) -> Html:
    """Returns a value as HTML: as it is if it is `Html`, nothing for None, else its text, escaped."""
    if isinstance(value, Html):
        return value
    return Html("" if value is None else html.escape(UNSHOWABLE.sub("\ufffd", str(value))))


def join(*children: object) -> Html:
    """Returns the HTML of several values one after another; a list or a tuple counts as its items."""
    flat = (join(*child) if isinstance(child, list | tuple) else escaped(child) for child in children)
    return Html("".join(flat))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """Returns one element.

    Args:
        tag: its name.
        *children: as for `join`.
        **attributes: their values; None or False leaves one out, True writes its name alone. An underscore
            at the end is dropped (``class_``), another one becomes a hyphen.
    """
    written = ""
    for name, value in attributes.items():
        if value is not None and value is not False:
            name = name.rstrip("_").replace("_", "-")
            written += f" {name}" if value is True else f' {name}="{escaped(str(value))}"'
    end = "" if tag in EMPTY_TAGS else f"</{tag}>"
    return Html(f"<{tag}{written}>{join(*children)}{end}")


def number(value: float | None, digits: int | None = None, unit: str = "") -> Html:
    """Returns a number as it is read, with its exact value beside it for programs.

    Args:
        value: the number; None, for one that is not known or not finite, is a dash.
        digits: after the point. Defaults to four significant digits, and to all of a whole number.
        unit: behind it, such as "%". Defaults to none.

    Raises:
        TypeError: not a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise TypeError(f"{value!r} is not a number")
    if value is None or not math.isfinite(value):
        return Html(NOTHING)
    shown = f"{value:.{digits}f}" if digits is not None else short(value)
    return join(element("data", shown, value=repr(value)), f"\u00a0{unit}" if unit else None)


def short(value: Any) -> str:
    """Returns a JSON value as a table shows it."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(short, value)) or "none"
    return str(value)


def table(
    caption: str, header: Sequence[object], rows: Iterable[Sequence[object]], *, words: Sequence[int] = ()
) -> Html:
    """Returns a table that scrolls within itself where the screen is narrower.

    Args:
        caption: what it shows.
        header: of the columns; the first cell of each row is its header.
        rows: cells.
        words: the columns of text, which stand at the left; the first one does always, all others are of
            numbers. Defaults to none.
    """
    left = {0, *words}
    align = {column: None if column in left else "number" for column in range(len(header))}
    head = [element("th", cell, scope="col", class_=align[i]) for i, cell in enumerate(header)]
    body = []
    for first, *others in rows:
        cells = [
            element("td", cell, class_=align[i] or _width(cell)) for i, cell in enumerate(others, start=1)
        ]
        named = element("th", first, scope="row", class_=_width(first))
        body.append(element("tr", named, cells))
    whole = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", head)),
        element("tbody", body),
    )
    look = "scroll tall" if len(body) > TALL else "scroll"
    return element("div", whole, class_=look, role="region", tabindex="0", aria_label=caption)


def _width(cell):
    """Returns the class of a cell of text: one of many letters must not become a tall column of words."""
    letters = re.sub("<[^>]*>", "", escaped(cell))
    return "long" if len(letters) > LONG else None


def pairs(entries: Iterable[tuple[object, object]], *, inline: bool = False) -> Html:
    """Returns terms and what is said of them, as a list of definitions.

    Args:
        entries: terms, each with what is said of it.
        inline: whether they follow each other on a line. Defaults to a line for each.
    """
    listed = [element("div", element("dt", term), element("dd", said)) for term, said in entries]
    return element("dl", listed, class_="inline" if inline else "said")


def items(lines: Iterable[object]) -> Html:
    """Returns an unordered list."""
    return element("ul", [element("li", line) for line in lines])


def fold(summary: str, *content: object) -> Html:
    """Returns content that is shown when its summary is clicked."""
    return element("details", element("summary", summary), content)


def code(text: str) -> Html:
    """Returns a block of code."""
    return element("pre", element("code", text))


def command(text: str) -> Html:
    """Returns a command line, which is broken between its arguments only, as long as these are short."""
    arguments = [element("span", argument) for argument in text.split(" ")]
    spaced = [[" " if i else None, argument] for i, argument in enumerate(arguments)]
    return element("pre", element("code", spaced), class_="command")


def notice(text: object, kind: str = "warning") -> Html:
    """Returns a paragraph that stands out and begins with the word for its kind."""
    return element("p", element("strong", f"{kind.capitalize()}: "), text, class_=f"notice {kind}")
