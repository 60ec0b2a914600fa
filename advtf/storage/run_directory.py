"""The directory of one run: its files, what state it is in, who may write to it, and how it is continued.

A run is a training, an evaluation or an analysis. Each is a subclass of `RunDirectory`, defined with what
it belongs to: `advtf.training.directory`, `advtf.evaluation.report` and `advtf.studies.run`. The file
`config.json` tells the kind, so that no command overwrites or continues what another one has made.
"""

import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from advtf.errors import UsageError, disk_full, room_for
from advtf.settings.fields import Settings
from advtf.storage.files import provenance, require_writable, write_json
from advtf.storage.identity import Identity, new_id
from advtf.storage.report_files import REPORT, is_report

STARTED_BY = "ADVTF_STARTED_BY"  # the variable with the command that has started the processes of a run
LOCK = ".lock"
SHOWN_RUNS = 8  # in a message
SettingsType = TypeVar("SettingsType", bound=Settings)


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Creates a folder and holds it for this process alone. The lock is the kernel's: it ends with the
    process.

    Raises:
        UsageError: another process is using the folder, or it cannot be written.
        DiskFull: there is no room for the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / LOCK, "a+")  # noqa: SIM115 - held for the whole context
    except OSError as error:
        full = disk_full(error, folder)
        raise full or UsageError(
            f"out_dir must be writable. Received: {folder} ({error.strerror}). Choose another --out_dir."
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.seek(0)
            raise UsageError(
                f"out_dir must not be in use. Received: {folder}, used by process "
                f"{handle.read().strip()}. Wait for it, or choose another --out_dir."
            ) from error
        with room_for(folder):
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
        yield


class Terminated(KeyboardInterrupt):
    """SIGTERM has arrived. Whatever handles Ctrl-C handles it in the same way."""


@dataclass(frozen=True)
class RunDirectory:
    """Paths of the files that a run writes; a contract that other tools read.

    Attributes:
        path: the path of the directory.
        kind: the kind of run that it holds, as config.json records it.
        command: the module ``python -m advtf.<command>`` that makes such runs.
        own_files: what the run writes beside its folders. The first one holds the final numbers and is
            written last; the last one marks a run and is removed last.
        own_folders: folders that the run writes.
        own_result: the entry of the final numbers, a JSON object or list, that every such run has written.
    """

    path: Path
    kind: ClassVar[str]
    command: ClassVar[str]
    own_files: ClassVar[tuple[str, ...]]
    own_folders: ClassVar[tuple[str, ...]]
    own_result: ClassVar[str]

    @classmethod
    def choose(
        cls,
        out_dir: str | None,
        default: str,
        *,
        resume: bool,
        overwrite: bool,
        taken: Callable[[Path], bool] = lambda path: False,
    ) -> Self:
        """Decides where a run goes, without writing anything.

        Args:
            out_dir: the user's choice, or None for `default` with the next free number.
            default: path of the default directory.
            resume: a run must be there; with the default name, the newest unfinished one, else the newest.
            overwrite: a run that is there may be replaced.
            taken: whether a default path is unusable for another reason, such as exports under its name.

        Raises:
            UsageError: the directory holds a run or foreign files and the flags do not say what to do with
                them, or it cannot be made or written; a run of another kind is refused whatever the flags.
            DiskFull: there is no room for a new file in it.
        """
        if out_dir is None and not overwrite:
            run = cls._newest(Path(default)) if resume else cls._next_free(Path(default), taken)
        else:
            run = cls(Path(out_dir or default))
            run._require_allowed(resume, overwrite)
        if resume and run.state() == "finished":  # its results may be read from anywhere
            run.read_results()
        else:
            require_writable(run.path, "--out_dir")
        return run

    def _require_allowed(self, resume: bool, overwrite: bool) -> None:
        state = self.state()
        if state == "other":
            found = self.found()
            article = "an" if found[0] in "aeiou" else "a"
            raise UsageError(
                f"out_dir must not hold {article} {found}. Received: {self.path}. Choose another --out_dir."
            )
        if state == "foreign" and self.config.exists():
            self.read_config()  # damage is reported as damage
            if resume:
                raise UsageError(
                    f"{self.config} must tell the kind of run and the version of advtf. Received: a JSON "
                    "object without them, which is damaged or of another program. "
                    "Restore it from a copy, or choose another --out_dir."
                )
        if resume:
            if state in ("new", "foreign"):
                raise self._nothing_to_resume(state)
        elif state == "foreign":
            raise UsageError(
                f"out_dir must be empty, new or a run of advtf. Received: {self.path}, which holds other "
                "files. Choose another --out_dir."
            )
        elif state != "new" and not overwrite:
            remedy = "--overwrite to replace it" + (
                " or --resume to continue it" if state == "unfinished" else ""
            )
            raise UsageError(
                f"out_dir must be free. Received: {self.path}, which holds a run ({state}). Add {remedy}."
            )

    def _nothing_to_resume(self, state: str) -> UsageError:
        """Says what was expected at the path, what is there, and which runs are in folders inside."""
        there = "which does not exist" if not self.path.exists() else "which is empty"
        begin = "without --resume a new one begins there"
        if state == "foreign":
            there = f"which holds other files and no {self.config.name}"
            begin = "to begin a new one, choose an empty folder without --resume"
        folders = sorted(entry for entry in self.path.glob("*") if entry.is_dir())
        found = [str(folder) for folder in folders if type(self)(folder).found() == self.kind]
        more = " and others" if len(found) > SHOWN_RUNS else ""
        inside = f" Runs inside: {', '.join(found[:SHOWN_RUNS])}{more}." if found else ""
        return UsageError(
            f"--resume requires an out_dir with a run of advtf.{self.command} and its {self.config.name}. "
            f"Received: {self.path}, {there}.{inside} Give the --out_dir of the run; {begin}."
        )

    @classmethod
    def _next_free(cls, default: Path, taken: Callable[[Path], bool]) -> Self:
        return next(
            run for run in map(cls, _numbered(default)) if run.state() == "new" and not taken(run.path)
        )

    @classmethod
    def _newest(cls, default: Path) -> Self:
        numbers = re.compile(re.escape(default.name) + r"(?:-(\d+))?")
        found = {}
        for path in default.parent.glob(f"{default.name}*"):
            match = numbers.fullmatch(path.name)
            run = cls(path)
            if match and run.state() in ("finished", "unfinished"):
                found[int(match[1] or 1)] = run
        if not found:
            raise UsageError(f"--resume requires a run. Received: none at {default}. Give its --out_dir.")
        unfinished = [number for number, run in found.items() if run.state() == "unfinished"]
        return found[max(unfinished or found)]

    def require_apart(self, folder: Path, name: str) -> None:
        """Checks that a folder for other results neither holds this directory nor lies among its files.

        Args:
            folder: the folder; a symbolic link counts as what it leads to.
            name: the name of its setting.

        Raises:
            UsageError: it does; the run would be in the way of the results, or they would go with the run.
        """
        here, there = Path(os.path.realpath(self.path)), Path(os.path.realpath(folder))
        among = there.relative_to(here).parts if there.is_relative_to(here) else ()
        if here.is_relative_to(there) or among[:1] in [
            (own,) for own in (*self.own_files, *self.own_folders)
        ]:
            raise UsageError(
                f"{name} must be apart from the files of the run in out_dir. Received: {name}={folder} with "
                f"out_dir={self.path}. Choose another --{name}."
            )

    @property
    def config(self) -> Path:
        """Kind, configuration, versions and command (JSON)."""
        return self.path / "config.json"

    @property
    def results(self) -> Path:
        """Final numbers (JSON); they are written last, so their presence means that the run is finished."""
        return self.path / self.own_files[0]

    def state(self) -> str:
        """Returns "new" (missing or empty), "finished", "unfinished", "other" (of another kind) or "foreign".

        Raises:
            UsageError: the path cannot be read or is not a directory.
        """
        try:
            names = {entry.name for entry in self.path.iterdir() if not _is_scratch(entry.name)}
        except FileNotFoundError:
            return "new"
        except OSError as error:
            raise UsageError(
                f"out_dir must be a readable directory. Received: {self.path} ({error.strerror}). "
                "Choose another --out_dir."
            ) from error
        if not names:
            return "new"
        kind = self.found()
        if kind != self.kind:
            return "other" if kind else "foreign"
        return "finished" if self.results.name in names else "unfinished"

    def found(self) -> str | None:
        """Returns the kind of the run that is there, or None."""
        with contextlib.suppress(UsageError):
            record = self.read_config()
            versions = record.get("versions")
            if isinstance(versions, Mapping) and "advtf" in versions:
                kind = record.get("kind", "training")  # the first version wrote trainings only, and no kind
                return kind if isinstance(kind, str) and kind else None
        return None

    def write_config(self, config: Settings, options: Settings, **more: Any) -> None:
        """Writes config.json: what marks the directory, and what ``--resume`` continues with.

        A run that is there already keeps its id; a new one gets one.

        Args:
            config, options: the settings of the run.
            **more: further entries of config.json, which are JSON values.
        """
        identity = self.identity()
        mark = {"kind": self.kind, "id": identity.id if identity else new_id()}
        settings = {"config": config.to_json(), "options": options.to_json()}
        write_json(self.config, provenance() | mark | settings | more)

    def read_config(self) -> dict:
        """Returns the content of config.json.

        Raises:
            UsageError: it cannot be read, or is no JSON object.
        """
        try:
            record = json.loads(self.config.read_text(encoding="utf-8"))
            reason = None if isinstance(record, dict) else f"a JSON {type(record).__name__}"
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or str(error)
        if reason is not None:
            raise UsageError(
                f"{self.config} must be the JSON object that a run began with. Received: {reason}. "
                "Restore it from a copy, or choose another --out_dir."
            )
        return record

    def read_results(self) -> dict:
        """Returns the final numbers of a run that is finished.

        Raises:
            UsageError: they cannot be read, or lack the entry that every such run writes.
        """
        try:
            record = json.loads(self.results.read_text(encoding="utf-8"))
            whole = isinstance(record, dict) and isinstance(record.get(self.own_result), dict | list)
            reason = None if whole else f"JSON without an entry {self.own_result!r}"
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or f"damaged JSON ({error})"
        if reason is not None:
            raise UsageError(
                f"{self.results} must be the results that the run has written. Received: {reason}. Restore "
                "it from a copy, or remove it and continue the run with --resume, which writes it anew."
            )
        return record

    def stored(self, settings: type[SettingsType], entry: str) -> SettingsType:
        """Returns the settings that config.json holds under `entry`.

        Raises:
            UsageError: it cannot be read, or they are damaged or of another version.
        """
        try:
            return settings.from_json(self.read_config().get(entry))
        except UsageError as error:
            raise UsageError(
                f"{error} It is the {entry} in {self.config}. Restore that file, or start again with "
                "--overwrite."
            ) from error

    def identity(self) -> Identity | None:
        """Returns which run is there; None if there is none, or one that was begun before runs had ids."""
        with contextlib.suppress(UsageError):
            number = self.read_config().get("id")
            return Identity(number, self.path) if isinstance(number, str) else None
        return None

    def identify(self, **more: Any) -> Identity:
        """Returns which run is there; one that was begun before runs had ids gets one.

        Args:
            **more: entries that config.json has to have, which are JSON values.

        Raises:
            UsageError: there is no run.
        """
        identity = self.identity() or Identity(new_id(), self.path)
        record = self.read_config()
        if record | (wanted := {"id": identity.id} | more) != record:
            write_json(self.config, record | wanted)
        return identity

    @contextlib.contextmanager
    def locked(self, *, resume: bool = False, overwrite: bool = False) -> Iterator[Self]:
        """Creates the directory, holds it for this process alone, and empties it of an old run if allowed.

        Without `resume` and `overwrite` it must be new, also if another process has filled it since `choose`.
        Files that the package did not write stay. The lock is the kernel's: it ends with the process.

        Raises:
            UsageError: another process is using or has filled the directory, or it cannot be written.
            DiskFull: there is no room for the lock.
        """
        with hold(self.path):
            if not (resume or overwrite) and self.state() != "new":
                raise UsageError(
                    f"out_dir must be free. Received: {self.path}, filled by another process in the "
                    "meantime. Choose another --out_dir."
                )
            if overwrite:
                try:
                    self.remove_run()
                except OSError as error:  # a checkpoint left behind would be continued from
                    raise UsageError(
                        f"the run in out_dir must be removable. Received: {self.path} ({error}). "
                        "Remove it by hand, or choose another --out_dir."
                    ) from error
            yield self

    def remove_run(self) -> None:
        """Removes the files and folders that a run of this kind writes, a report on it, and nothing else."""
        if is_report(self.path / REPORT):
            (self.path / REPORT).unlink()
        for name in self.own_folders:
            if (self.path / name).exists():
                shutil.rmtree(self.path / name)
        for name in self.own_files:
            (self.path / name).unlink(missing_ok=True)

    @property
    def resume_command(self) -> str:
        """The command that continues the run; that of the launcher where one has started this process."""
        command = os.environ.get(STARTED_BY) or f"python -m advtf.{self.command}"
        return f"{command} --out_dir={shlex.quote(str(self.path))} --resume"

    def kept(self) -> str:
        """Returns what an unfinished run need not do again, in a few words; empty if there is nothing."""
        return ""

    @contextlib.contextmanager
    def tell_how_to_continue(self) -> Iterator[None]:
        """Says how a run that has begun is continued where Ctrl-C, SIGTERM or a full disk stops it.

        Exits with 130, with 143, or with 1.
        """
        previous = signal.signal(signal.SIGTERM, _terminate)
        try:
            yield
        except KeyboardInterrupt as stop:
            number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
            by = " by SIGTERM" if isinstance(stop, Terminated) else ""
            print(f"Interrupted{by}." + self._continuation(" Continue with: "), flush=True)
            sys.exit(128 + number)
        except Exception as error:
            full = disk_full(error)
            if full is None:
                raise
            kept = self.kept()
            kept = f" Kept: {kept}." if kept else ""
            again = self._continuation(" Free some space, then continue with: ")
            again = again if self.state() == "unfinished" else " Free some space, then start again."
            print(f"error: {full}{kept}{again}", file=sys.stderr)
            sys.exit(1)
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _continuation(self, words: str) -> str:
        state = self.state()
        if state == "new":
            return " Nothing was written yet; run the same command again."
        return f"{words}{self.resume_command}" if state == "unfinished" else ""


def _terminate(number, frame):
    raise Terminated


def _numbered(default: Path) -> Iterator[Path]:
    yield default
    number = 2
    while True:
        yield default.with_name(f"{default.name}-{number}")
        number += 1


def _is_scratch(name: str) -> bool:
    return name == LOCK or (name.startswith(".") and name.endswith(".partial"))  # of a write that was killed
