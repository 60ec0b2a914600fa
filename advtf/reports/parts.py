"""What the chapters of all kinds of folders share: versions, settings, data, how to repeat, limits."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from advtf.errors import UsageError, alternatives, quantity
from advtf.figures.results import NORM_NAMES
from advtf.reports.html import (
    Html,
    code,
    command,
    element,
    fold,
    items,
    join,
    notice,
    number,
    pairs,
    short,
    table,
)
from advtf.settings.fields import OPEN, Settings, show
from advtf.settings.threat import NORMS, format_epsilon
from advtf.storage.run_directory import RunDirectory

LONGEST_LIST = 12  # numbers of a result that are written out


def standard_error(percent: float, examples: int) -> float:
    """Returns the standard error, in points, of an error in percent: √(p (1 − p) / n) for n images."""
    share = percent / 100
    return 100 * math.sqrt(max(share * (1 - share), 0.0) / examples)


def error_cell(percent: float | None, examples: int) -> Html:
    """Returns an error in percent with its standard error."""
    if percent is None:
        return number(None)
    deviation = element("small", f" ±\u00a0{standard_error(percent, examples):.2f}")
    return join(number(percent, 2), deviation)


def ball(norm: str, epsilon: float) -> str:
    """Returns the set of perturbations in a few words; ε and its value stay on one line."""
    return f"{NORM_NAMES.get(norm, norm)}, ε\u00a0=\u00a0{format_epsilon(epsilon)}"


LOWER_BOUND = (
    "An attack finds perturbations and cannot prove that there are no others, so a robust error is a lower "
    "bound."
)


def measured(what: str, norm: str, epsilon: float, examples: int, errors: Iterable[float]) -> str:
    """Returns what was measured on how many images, and how far its errors can be relied upon.

    Args:
        what: the attacks, in words.
        norm, epsilon: of the perturbations.
        examples: number of images.
        errors: in percent, all that were found.
    """
    largest = max((standard_error(error, examples) for error in errors), default=0.0)
    images = quantity(examples, "test image")
    return (
        f"{what}, {ball(norm, epsilon)}, on {images}; the standard errors are at most {largest:.2f} points."
    )


def not_measured(attacks: Iterable[str], radii: Mapping[str, float], dataset: str | None) -> str:
    """Returns what errors leave open.

    Args:
        attacks: all that were used.
        radii: the largest radius by norm.
        dataset: of the test images; None if it is not known.
    """
    named = ", ".join(dict.fromkeys(attacks))
    others = [NORM_NAMES[name] for name in NORMS if name not in radii]
    norms = [f"perturbations in {alternatives(others)}"] if others else []
    largest = [
        format_epsilon(radius) if len(radii) == 1 else f"{format_epsilon(radius)} in {NORM_NAMES[norm]}"
        for norm, radius in radii.items()
    ]
    where = f"the test images of {dataset}" if dataset else "these images"
    left = [f"attacks other than {named}", *norms, f"radii above {alternatives(largest)}"]
    return f"Not measured: {'; '.join([*left, f'data other than {where}'])}."


def versions(record: Mapping[str, Any]) -> Html:
    """Returns the versions that a result file records."""
    return pairs(((name, element("code", value)) for name, value in record["versions"].items()), inline=True)


def repeat(module: str, record: Mapping[str, Any], settings: Settings | Mapping[str, Any] | None) -> Html:
    """Returns the command that made a folder, the versions and all settings.

    Args:
        module: the command ``advtf.<module>``.
        record: the content of config.json.
        settings: of the run; None if they are not known.
    """
    typed = f"python -m advtf.{module} {record['command']}".strip()
    return join(
        element("p", "The command as it was typed, and the versions that ran it:"),
        command(typed),
        versions(record),
        every_setting(settings) if settings else None,
    )


def unread_settings(source: Path, error: UsageError) -> str:
    """Returns what a page says of settings that are damaged, of another version or of a script's own."""
    return f"the settings in {source} cannot be read here, so they are shown as they are: {error}"


def every_setting(settings: Settings | Mapping[str, Any]) -> Html:
    """Returns a table of all settings with what each means, and the flagfile of them, folded up."""
    if isinstance(settings, Settings):
        meaning = {field.name: field.metadata["help"] for field in dataclasses.fields(settings)}
        typed = join(element("p", "The same as a flagfile, for --flagfile=FILE:"), code(flagfile(settings)))
        settings = settings.to_json()
    else:
        meaning, typed = dict.fromkeys(settings, ""), None
    rows = [(element("code", name), short(value), meaning[name]) for name, value in settings.items()]
    shown = table("Settings that determine the numbers", ("Setting", "Value", "Meaning"), rows, words=(1, 2))
    return fold(f"Every setting ({len(rows)})", shown, typed)


def flagfile(settings: Settings) -> str:
    """Returns settings as the flags that give them, a line each.

    A setting without a value is left out, unless it would then get one that follows from others.
    """
    values = ((field, getattr(settings, field.name)) for field in dataclasses.fields(settings))
    given = [(field, value) for field, value in values if value is not None or field.default is OPEN]
    return "\n".join(f"--{field.name}={_typed(value)}" for field, value in given)


def _typed(value):
    """Returns a value as text that is read as the same value; `show` would round numbers."""
    if isinstance(value, tuple):
        return ",".join(map(_typed, value)) or "none"
    return repr(value) if isinstance(value, float) else show(value)


def images_table(images: Mapping[str, Any]) -> Html:
    """Returns which images were used.

    Args:
        images: number and SHA-256 by the name of the part; other entries are left out.
    """
    parts = {name: part for name, part in images.items() if isinstance(part, Mapping)}
    rows = [(name, number(part["examples"]), element("code", part["sha256"])) for name, part in parts.items()]
    return table(
        "Images, with the SHA-256 that tells which they were", ("Part", "Images", "SHA-256"), rows, words=(2,)
    )


def values_table(caption: str, content: Mapping[str, Any]) -> list[Html]:
    """Returns the numbers of a result as tables, whatever study they are of.

    A list of objects, such as one for each classifier, becomes a table with a column for each; everything
    else is in one table of names and values. Long lists are summed up.

    Args:
        caption: of the tables.
        content: JSON values.
    """
    single = {name: value for name, value in content.items() if not _is_series(value)}
    tables = []
    if single:
        rows = [(" · ".join(path), shown) for path, shown in _leaves(single)]
        tables.append(table(caption, ("Quantity", "Value"), rows, words=(1,)))
    for name, series in content.items():
        if _is_series(series):
            columns = [dict(_leaves(each)) for each in series]
            heads = [_title(each, f"{name} {i}") for i, each in enumerate(series, start=1)]
            paths = [path for path in dict.fromkeys(path for column in columns for path in column)]
            rows = [
                (" · ".join(path), *(column.get(path, number(None)) for column in columns))
                for path in paths
                if path not in (("name",), ("start",), ("end",))
            ]
            words = range(1, len(heads) + 1)
            tables.append(table(f"{caption}: {name}", ("Quantity", *heads), rows, words=words))
    return tables


def _is_series(value):
    return isinstance(value, list) and bool(value) and all(isinstance(each, Mapping) for each in value)


def _title(entry, otherwise):
    if "name" in entry:
        return entry["name"]
    ends = [entry[name] for name in ("start", "end") if isinstance(entry.get(name), str)]
    return " → ".join(ends) or otherwise


def _leaves(value, path=()):
    """Yields (path, HTML) of everything in a JSON value that is not a mapping itself."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, (*path, str(name).replace("_", " ")))
    else:
        yield path, _leaf(value)


def _leaf(value):
    if isinstance(value, list):
        flat = [each for each in value if isinstance(each, int | float) and not isinstance(each, bool)]
        if len(value) > LONGEST_LIST and len(flat) == len(value):
            return f"{quantity(len(flat), 'number')} from {short(min(flat))} to {short(max(flat))}"
        if len(value) > LONGEST_LIST or any(isinstance(each, list | Mapping) for each in value):
            return f"a list of {len(value):,}"
        return join([[", " if i else "", _leaf(each)] for i, each in enumerate(value)]) or "none"
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return number(value) if numeric else short(value)


def limits(lines: Iterable[object]) -> Html:
    """Returns what a classifier was made and measured for, a line for each fact."""
    return items(line for line in lines if line)


def unfinished(run: RunDirectory, done: str = "") -> Html:
    """Returns that a run is not finished, and the command that continues it.

    Args:
        run: its directory.
        done: how far it is, a sentence. Defaults to nothing.
    """
    how = element("code", run.resume_command)
    return notice(join(f"This {run.kind} is not finished. ", done and f"{done} ", "Continue with ", how, "."))


def described(plan: Mapping[str, str]) -> Html:
    """Returns the plan of a run, as the command prints it before it begins."""
    return pairs(plan.items())
