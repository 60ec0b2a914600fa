"""What lies prepared in a folder of TFDS, and what TFDS could prepare there; without TensorFlow.

The commands ask `require` before TensorFlow starts, so that a wrong version, a damaged folder or a missing
network is answered at once. Nothing here imports TensorFlow, and TFDS itself is imported only where it is
needed: that takes seconds.
"""

import json
import os
import queue
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from advtf import runtime
from advtf.errors import UsageError, first_line

PROBE_SECONDS = 5.0
INFO = "dataset_info.json"  # written last when TFDS prepares a data set
SHARD_NAMES = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_VERSION = re.compile(r"(\d+|\*)\.(\d+|\*)\.(\d+|\*)")


def require_version(name: str) -> None:
    """Checks that a name ends in a version, if it has one, that TFDS can read.

    Raises:
        UsageError: it does not.
    """
    _, colon, version = name.partition(":")
    if colon and not _VERSION.fullmatch(version):
        raise UsageError(
            "the version of a data set must be three numbers, such as mnist:3.0.1. "
            f"Received: dataset={name}. Leave it out for the newest."
        )


def require(name: str, directory: str) -> None:
    """Checks that a data set is prepared in a folder, or can be downloaded into it.

    Args:
        name: of TFDS, with configuration and version or without.
        directory: the folder of prepared data.

    Raises:
        UsageError: the folder is not readable, or its data are damaged; the version is unknown; or there is
            no network.
    """
    folders = list(_folders(name, directory))
    if folders:
        _require_whole(folders)
        return
    # TFDS logs what it does not find, and a few of its data sets import TensorFlow with all its messages.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryFile() as hidden, runtime.stderr_to(hidden):
        require_network(open_builder(name, directory), name, directory)


def examples(name: str, directory: str, split: str) -> int | None:
    """Returns the number of examples in a split of prepared data; None where that cannot be told."""
    try:
        splits = _info(name, directory)["splits"]
        return next(sum(map(int, each["shardLengths"])) for each in splits if each["name"] == split)
    except (OSError, ValueError, LookupError, TypeError, StopIteration, UsageError):
        return None


def file_format(name: str, directory: str) -> str | None:
    """Returns the format of the files of prepared data, such as "array_record"; None as for `examples`."""
    try:
        return _info(name, directory)["fileFormat"]
    except (OSError, ValueError, LookupError, TypeError, UsageError):
        return None


def _info(name: str, directory: str) -> dict[str, Any]:
    """Returns the description of the newest version."""
    return json.loads((max(_folders(name, directory), key=_number) / INFO).read_text("utf-8"))


def _folders(name: str, directory: str) -> Iterator[Path]:
    """Yields the folders of the versions that are in `directory` and that `name` may mean."""
    path, _, version = name.partition(":")
    wanted = re.compile((version or "*.*.*").replace(".", r"\.").replace("*", r"\d+"))
    require_folder(directory)
    root = Path(directory, path)
    try:
        inside = [root, *sorted(entry for entry in root.iterdir() if entry.is_dir())] if root.is_dir() else []
        for folder in inside:  # of the data set, or of its configurations
            yield from (entry for entry in sorted(folder.iterdir()) if wanted.fullmatch(entry.name))
    except OSError as error:
        raise UsageError(
            f"the prepared data must be readable. Received: {error.filename} ({error.strerror}). "
            "Change its permissions, or choose another --data_dir."
        ) from error


def _number(folder: Path) -> list[int]:
    return [int(part) for part in folder.name.split(".")]


def _require_whole(folders: list[Path]) -> None:
    """Checks that one of the folders has a description, which TFDS writes last."""
    found = {folder: _lack(folder) for folder in folders}
    if all(found.values()):
        folder, lack = next(iter(found.items()))
        raise UsageError(
            f"the prepared data must be complete. Received: {folder}: {lack}. "
            "Remove that folder and prepare the data again."
        )


def _lack(folder: Path) -> str | None:
    """Returns what prepared data visibly lack, None for nothing; their bytes are checked when read."""
    try:
        info = json.loads((folder / INFO).read_text("utf-8"))
    except FileNotFoundError:
        return f"it has no {INFO}"
    except (OSError, ValueError) as error:
        return f"{INFO} cannot be read ({first_line(error)})"
    try:
        for split in info["splits"] if info["fileFormat"] == "tfrecord" else ():
            shards = list(folder.glob(f"*-{split['name']}.tfrecord-*"))
            size = sum(shard.stat().st_size for shard in shards)
            needed = int(split["numBytes"]) if split["filepathTemplate"] == SHARD_NAMES else 0
            if size < needed or (needed and len(shards) < len(split["shardLengths"])):
                return f"the files of split {split['name']} have {size:,} bytes of at least {needed:,}"
    except (LookupError, TypeError, ValueError):  # of another release: TFDS will tell
        pass
    return None


def require_folder(directory: str) -> None:
    """Checks that a folder of prepared data, if there is something of that name, is a readable folder.

    Raises:
        UsageError: it is not.
    """
    reason = None
    if os.path.exists(directory) and not os.path.isdir(directory):
        reason = "a file"
    elif os.path.isdir(directory) and not os.access(directory, os.R_OK | os.X_OK):
        reason = "no permission"
    if reason:
        raise UsageError(
            f"data_dir must be a readable folder. Received: {directory} ({reason}). "
            "Point --data_dir or TFDS_DATA_DIR at a folder of prepared data."
        )


def import_tfds() -> Any:
    """Imports TFDS, and silences its progress bars where stdout is not a terminal."""
    import tensorflow_datasets as tfds

    if not sys.stdout.isatty():
        tfds.disable_progress_bar()
    return tfds


def open_builder(name: str, directory: str) -> Any:
    """Returns the TFDS builder of `name`: of a version prepared in `directory`, else the current one.

    Raises:
        UsageError: TFDS cannot open it.
    """
    require_folder(directory)
    require_version(name)
    tfds = import_tfds()
    # A version pattern makes TFDS look at the prepared files before its own code, so that data
    # prepared by an older or newer release are used instead of downloaded again.
    pattern = name if ":" in name else f"{name}:*.*.*"
    try:
        return tfds.builder(pattern, data_dir=directory)
    except Exception as error:  # TFDS raises many types here; each means the name or the folder is wrong
        path, _, version = name.partition(":")
        there = sorted({folder.name for folder in _folders(path, directory)})
        if version and version not in there:
            raise UsageError(
                f"the version of a data set must be prepared in {directory}, or be one that TFDS prepares. "
                f"Received: dataset={name}; prepared: {', '.join(there) or 'none'}. Leave the version out."
            ) from error
        raise UsageError(
            f"TFDS cannot open this data set in {directory}: {reason_of(error)}. Received: dataset={name}. "
            "Check the name, or remove a damaged folder and prepare it again."
        ) from error


def reason_of(error: BaseException) -> str:
    """Returns what an error says in a line, without the names of TensorFlow's operations around it."""
    line = first_line(error).strip()
    return re.sub(r"^\{\{.*?\}\}\s*|\s*\[Op:.*$", "", line)[:300].rstrip(".: ") or type(error).__name__


def ways_out(name: str, directory: str) -> str:
    """Returns the advice for data that are not there and cannot be downloaded."""
    command = (
        "import tensorflow_datasets as tfds; "
        f"tfds.builder('{name}', data_dir='{directory}').download_and_prepare()"
    )
    return (
        "Point --data_dir or TFDS_DATA_DIR at prepared data, prepare it on a machine with network "
        f'(python -c "{command}") and copy it, or use --dataset=digits.'
    )


def require_network(builder: Any, name: str, directory: str) -> None:
    """Checks that TFDS can download a data set and write it.

    Raises:
        UsageError: the folder cannot be written, or its host does not answer.
    """
    existing = next(path for path in (Path(directory).absolute(), *Path(directory).absolute().parents)
                    if path.exists())  # fmt: skip
    if not os.access(existing, os.W_OK | os.X_OK) or not existing.is_dir():
        raise UsageError(
            f"no prepared data in {directory}, and {existing} must be a writable folder to prepare them. "
            f"Received: dataset={name}. {ways_out(name, directory)}"
        )
    url = next(iter(builder.url_infos or {}), None)
    if url and not reachable(f"{urlsplit(url).scheme}://{urlsplit(url).netloc}/"):
        missing = "" if os.path.isdir(directory) else ", which does not exist"
        raise UsageError(
            f"no prepared data in {directory}{missing}. Received: dataset={name}, and no network to download "
            f"it ({urlsplit(url).netloc}). {ways_out(name, directory)}"
        )


def reachable(url: str, seconds: float = PROBE_SECONDS) -> bool:
    """Returns whether the host of `url` answers HTTP within `seconds`, with the look-up and through proxies.

    The question is asked in a thread because a look-up without network has no time limit of its own.
    """
    import requests

    answer: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def ask() -> None:
        try:
            requests.head(url, timeout=seconds, allow_redirects=False)
            answer.put(True)
        except requests.RequestException:
            answer.put(False)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.get(timeout=seconds)
    except queue.Empty:
        return False
