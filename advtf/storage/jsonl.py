"""Files of one JSON object per line (`metrics.jsonl`): they are appended, read and cut back."""

import json
import os
from pathlib import Path

from advtf.errors import UsageError, quantity, room_for
from advtf.storage.files import write_atomically

GIVEN = "Give the metrics.jsonl of a run, restored from a copy if it is damaged."  # remedies
OWN = "Restore it from a copy, or start again with --overwrite."


def append(path: str | Path, record: dict) -> None:
    """Appends one line and returns once it is on the disk.

    Args:
        path: the file; its folder must exist.
        record: JSON values; numbers that are not finite must have been replaced, because JSON has none.

    Raises:
        DiskFull: there is no room for the line; part of it may be in the file, which `mend` drops.
    """
    with room_for(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: str | Path, remedy: str = GIVEN) -> list[dict]:
    """Reads all records.

    A last line that is not a whole record is skipped if the process may have been killed while writing it:
    it has no end, or begins as a record does.

    Args:
        path: the file.
        remedy: what the message about a damaged file advises.

    Raises:
        UsageError: no such file, or a line other than the last is not a JSON object of numbers and nulls.
    """
    text = _text(path)
    lines = text.splitlines()
    records = [_parse(line) for line in lines]
    if records and records[-1] is None and (not text.endswith("\n") or lines[-1][:1] in ("", "{", "\0")):
        records.pop()
    if None in records:
        raise UsageError(
            "every line of a metrics file must be one JSON object whose values are numbers. Received: "
            f"{path}, line {records.index(None) + 1}: {lines[records.index(None)][:40]!r}. {remedy}"
        )
    return records


def truncate(path: str | Path, epochs: int) -> None:
    """Keeps at most the first `epochs` records, and of these the ones with epoch <= `epochs`.

    A run that continues calls it, because what was logged after the checkpoint will be logged again. The file
    is replaced atomically; a missing file stays missing.

    Raises:
        UsageError: the file is damaged, or holds no record of epochs that are finished.
    """
    if Path(path).exists():
        kept = [record for record in read(path, OWN) if (record.get("epoch") or 0) <= epochs]
        if epochs and not kept:
            raise UsageError(
                f"{path} must hold the records of {quantity(epochs, 'finished epoch')}. Received: none. {OWN}"
            )
        _rewrite(Path(path), kept[:epochs])


def mend(path: str | Path) -> None:
    """Drops a torn last line, so that the next record starts on a line of its own."""
    text = _text(path) if Path(path).exists() else ""
    if text and not text.endswith("\n"):
        _rewrite(Path(path), read(path))


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(
            f"a metrics file must be readable. Received: {path} ({error.strerror}). "
            "Give the metrics.jsonl of a run that finished at least one epoch."
        ) from error


def _parse(line: str) -> dict | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    numbers = isinstance(record, dict) and all(_is_number(value) for value in record.values())
    return record if numbers else None


def _is_number(value) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _rewrite(path: Path, records: list[dict]) -> None:
    text = "".join(json.dumps(record) + "\n" for record in records)
    write_atomically(path, lambda file: file.write(text.encode()))
