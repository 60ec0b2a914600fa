"""The exceptions for what a user can mend, and the checks and hints that their messages share."""

import difflib
import errno
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real

FULL = {number: os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT)}  # of a disk, of a quota


class UsageError(ValueError):
    """A setting, file or array that the caller can put right.

    The message is one line: what was required, what was received, what to do. The commands print it
    after ``error:`` and exit with code 2; library callers can catch it as a ``ValueError``.
    """


class DiskFull(OSError):
    """There is no room for a file. What was on the disk before is still there; half a file is not.

    The commands print it after ``error:`` with what was kept and how to continue, and exit with code 1.

    Attributes:
        filename: the file or folder that could not be written.
    """

    def __str__(self) -> str:
        return f"the disk must have room for {self.filename or 'the output'}. Received: {self.strerror}."


def disk_full(error: BaseException, path: str | os.PathLike | None = None) -> DiskFull | None:
    """Returns the `DiskFull` that an exception amounts to, or None if it has another reason.

    TensorFlow reports a full disk by exceptions of its own, and a writer that fails may fail again when it
    is closed. So the message counts as well as the number of the error, and so does what was raised before.

    Args:
        error: the exception.
        path: what was to be written. Defaults to what the exception says.
    """
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) and before not in chain:
        chain.append(before)
    for each in chain:
        if isinstance(each, DiskFull):
            return each
    for each in chain:
        for number, reason in FULL.items():
            if getattr(each, "errno", None) == number or reason in str(each):
                return DiskFull(number, reason, str(path or getattr(each, "filename", None) or ""))
    return None


@contextmanager
def room_for(path: str | os.PathLike) -> Iterator[None]:
    """Within the context, a full disk is a `DiskFull` that names `path`."""
    try:
        yield
    except Exception as error:
        full = disk_full(error, path)
        if full is None or full is error:
            raise
        raise full from error


def nearest(name: str, choices: Iterable[str], mark: str = "") -> str:
    """Returns `` Did you mean 'x'?`` for the choice closest to `name`, or an empty string.

    Args:
        name: what was given. One of the choices themselves has no hint: something else is wrong with it.
        choices: the names that are accepted.
        mark: stands before the hint instead of quotation marks around it, such as ``--``.
    """
    spelt = {_spelling(choice): choice for choice in choices}
    if name in spelt.values():
        return ""
    matches = difflib.get_close_matches(_spelling(name), spelt, n=1)
    if not matches:
        return ""
    meant = spelt[matches[0]]
    return f" Did you mean {mark}{meant}?" if mark else f" Did you mean '{meant}'?"


def _spelling(name: object) -> str:
    """Returns a name as it is compared: upper and lower case, hyphens and underscores are alike."""
    return str(name).lower().replace("-", "_")


def show_text(value: object, most: int = 100) -> str:
    """Returns a value as a message of one line quotes it: shortened, and with every character visible."""
    text = str(value)
    if (isinstance(value, str) and text.strip() != text) or not text:
        text = repr(text)
    if len(text) > most:
        text = f"{text[: most - 20]}… ({len(text):,} characters)"
    return text if text.isprintable() else ascii(text)


def alternatives(names: Sequence[str]) -> str:
    """Returns ``a``, ``a or b``, or ``a, b or c``."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def quantity(number: float, noun: str) -> str:
    """Returns ``1 image``, ``1,000 images``, ``2 classes`` or ``2.5 epochs``."""
    shown = f"{number:,}" if number == int(number) else f"{number:g}"
    plural = "es" if noun.endswith("s") else "s"
    return f"{shown} {noun}{plural * (number != 1)}"


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message, or its type where the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_of(what: str, name: str, choices: Iterable[str]) -> str:
    """Returns `name` if it is one of `choices`.

    Args:
        what: what the message calls it.
        name: the value to check.
        choices: the names that are accepted.

    Raises:
        UsageError: it is not; the message lists the choices and the nearest one.
    """
    choices = list(choices)
    if name not in choices:
        raise UsageError(
            f"{what} must be one of {', '.join(choices)}. Received: {what}={name}.{nearest(name, choices)}"
        )
    return name


def require_whole(name: str, value: int, least: int = 1, most: float = float("inf")) -> None:
    """Checks that `value` is an integer from `least` to `most`.

    Args:
        name: what the message calls it.
        value: the value to check.
        least, most: the bounds, both included.

    Raises:
        UsageError: it is not.
    """
    _require_number(name, value, Integral, "whole number", least, most)


def require_real(name: str, value: float, least: float, most: float = float("inf")) -> None:
    """Checks that `value` is a finite number from `least` to `most`.

    The arguments are those of `require_whole`.

    Raises:
        UsageError: it is not.
    """
    _require_number(name, value, Real, "finite number" if most == math.inf else "number", least, most)


def _require_number(name, value, kind, noun, least, most):
    if not isinstance(value, kind) or not math.isfinite(value) or not least <= value <= most:
        limits = f"from {least:g} to {most:g}" if most < float("inf") else f"of at least {least:g}"
        raise UsageError(f"{name} must be a {noun} {limits}. Received: {name}={value}.")
