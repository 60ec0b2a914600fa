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
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from advtf.errors import UsageError
from advtf.settings.fields import Settings
from advtf.storage.files import provenance, write_json

LOCK = ".lock"


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
    """

    path: Path
    kind: ClassVar[str]
    command: ClassVar[str]
    own_files: ClassVar[tuple[str, ...]]
    own_folders: ClassVar[tuple[str, ...]]

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
                them; a run of another kind is refused whatever the flags.
        """
        if out_dir is None and not overwrite:
            return cls._newest(Path(default)) if resume else cls._next_free(Path(default), taken)
        run = cls(Path(out_dir or default))
        state = run.state()
        if state == "other":
            found = run.found()
            article = "an" if found[0] in "aeiou" else "a"
            raise UsageError(
                f"out_dir must not hold {article} {found}. Received: {run.path}. Choose another --out_dir."
            )
        if resume:
            if state in ("new", "foreign"):
                raise UsageError(
                    f"--resume requires an out_dir with a run of advtf. Received: {run.path} ({state}). "
                    "Leave out --resume to start one."
                )
        elif state == "foreign":
            raise UsageError(
                f"out_dir must be empty, new or a run of advtf. Received: {run.path}, which holds other "
                "files. Choose another --out_dir."
            )
        elif state != "new" and not overwrite:
            remedy = "--overwrite to replace it" + (
                " or --resume to continue it" if state == "unfinished" else ""
            )
            raise UsageError(
                f"out_dir must be free. Received: {run.path}, which holds a run ({state}). Add {remedy}."
            )
        return run

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
                f"out_dir must be a readable directory. Received: {self.path} ({error.strerror})."
            ) from error
        if not names:
            return "new"
        kind = self.found()
        if kind != self.kind:
            return "other" if kind else "foreign"
        return "finished" if self.results.name in names else "unfinished"

    def found(self) -> str | None:
        """Returns the kind of the run that is there, or None."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            record = json.loads(self.config.read_text())
            if "advtf" in record.get("versions", {}):
                return record.get("kind", "training")  # the first version wrote trainings only, and no kind
        return None

    def write_config(self, config: Settings, options: Settings, **more: Any) -> None:
        """Writes config.json: what marks the directory, and what ``--resume`` continues with.

        Args:
            config, options: the settings of the run.
            **more: further entries of config.json, which are JSON values.
        """
        settings = {"config": config.to_json(), "options": options.to_json()}
        write_json(self.config, provenance() | {"kind": self.kind} | settings | more)

    def read_config(self) -> dict:
        """Returns the content of config.json.

        Raises:
            UsageError: it cannot be read.
        """
        try:
            return json.loads(self.config.read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"--resume requires a readable {self.config}. Received: {error}.") from error

    @contextlib.contextmanager
    def locked(self, *, resume: bool = False, overwrite: bool = False) -> Iterator[Self]:
        """Creates the directory, holds it for this process alone, and empties it of an old run if allowed.

        Without `resume` and `overwrite` it must be new, also if another process has filled it since `choose`.
        Files that the package did not write stay. The lock is the kernel's: it ends with the process.

        Raises:
            UsageError: another process is using or has filled the directory, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = open(self.path / LOCK, "a+")  # noqa: SIM115 - held for the whole context
        except OSError as error:
            raise UsageError(
                f"out_dir must be writable. Received: {self.path} ({error.strerror})."
            ) from error
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                handle.seek(0)
                raise UsageError(
                    f"out_dir must not be in use. Received: {self.path}, used by process "
                    f"{handle.read().strip()}. Wait for it, or choose another --out_dir."
                ) from error
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
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
        """Removes the files and folders that a run of this kind writes, and nothing else."""
        for name in self.own_folders:
            if (self.path / name).exists():
                shutil.rmtree(self.path / name)
        for name in self.own_files:
            (self.path / name).unlink(missing_ok=True)

    @property
    def resume_command(self) -> str:
        """The command that continues the run."""
        return f"python -m advtf.{self.command} --out_dir={shlex.quote(str(self.path))} --resume"

    @contextlib.contextmanager
    def tell_how_to_continue(self) -> Iterator[None]:
        """On Ctrl-C, says how a run that has begun is continued, and exits with 130."""
        try:
            yield
        except KeyboardInterrupt:
            unfinished = self.state() == "unfinished"
            print("Interrupted." + (f" Continue with: {self.resume_command}" if unfinished else ""))
            sys.exit(130)


def _numbered(default: Path) -> Iterator[Path]:
    yield default
    number = 2
    while True:
        yield default.with_name(f"{default.name}-{number}")
        number += 1


def _is_scratch(name: str) -> bool:
    return name == LOCK or (name.startswith(".") and name.endswith(".partial"))  # of a write that was killed
