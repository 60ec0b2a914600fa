"""What every command does alike: flags from settings, help, errors of one line, shared options.

`run_command` is the way in: it makes a flag of every field of the settings dataclasses, reads the command
line, and calls the command's ``main``. A flag keeps the text that was typed; the settings' constructor is
where it is parsed. This module does not import TensorFlow.
"""

import contextlib
import dataclasses
import os
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from advtf.errors import UsageError
from advtf.settings.fields import OPEN, Settings, is_optional, setting, show, switch, text

USAGE_EXIT_CODE = 2
HELP_WORDS = ("--help", "-help", "-h", "-?", "--helpshort", "-helpshort")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandOptions(Settings):
    """Where a command reads and writes and what it shows; none of it changes the numbers."""

    data_dir: str | None = setting(
        "files",
        text(),
        "folder of prepared TFDS or Tiny ImageNet data; default $TFDS_DATA_DIR or ~/tensorflow_datasets",
        None,
    )
    out_dir: str | None = setting("files", text(), "folder of the results", None)
    resume: bool = setting("files", switch(), "continue the run in out_dir", False)
    overwrite: bool = setting("files", switch(), "replace the run in out_dir", False)
    verbose: bool = setting("files", switch(), "show TensorFlow's start-up messages", False)

    def check(self) -> None:
        """Checks that a run is not to be continued and replaced at the same time.

        Raises:
            UsageError: it is.
        """
        if self.resume and self.overwrite:
            raise UsageError(
                "resume and overwrite exclude each other. Received: resume=True, overwrite=True."
            )


class SettingFlag(flags.Flag):
    """The absl flag of one setting; its value is the text that was typed, None until then."""

    def __init__(self, field: dataclasses.Field):
        self.field = field
        super().__init__(
            parser=flags.ArgumentParser(),
            serializer=flags.ArgumentSerializer(),
            name=field.name,
            default=None,
            help_string=field.metadata["help"],
            boolean=field.metadata["parser"].boolean,
        )


def define_flags(*classes: type, flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one flag per field of the settings dataclasses."""
    for cls in classes:
        for field in dataclasses.fields(cls):
            flags.DEFINE_flag(SettingFlag(field), flag_values, module_name=cls.__module__)


def given_flags(flag_values: flags.FlagValues, cls: type) -> dict[str, str]:
    """Returns the text of the settings of `cls` that were on the command line or in a flagfile."""
    names = [field.name for field in dataclasses.fields(cls)]
    return {name: flag_values[name].value for name in names if flag_values[name].value is not None}


@contextlib.contextmanager
def exit_on_usage_error() -> Iterator[None]:
    """Prints a `UsageError` or an absl flag error as one line on stderr and exits with code 2."""
    try:
        yield
    except (UsageError, flags.Error) as error:
        line = " ".join(str(error).removeprefix("ERROR:: ").split())
        if isinstance(error, flags.CantOpenFlagFileError):
            line += (
                ". Paths in flagfiles are relative to the working directory; run from the repository's root."
            )
        print(f"error: {line}", file=sys.stderr)
        sys.exit(USAGE_EXIT_CODE)


def run_command(
    main: Callable[[list[str]], Any], *classes: type, epilogue: Callable[[], Iterable[str]] = tuple
) -> None:
    """Runs a command: defines the flags of `classes`, parses them and calls ``main(argv)``.

    ``--help`` prints the settings and exits with 0. A mistake, of a flag or a `UsageError` from `main`, ends
    in one line on stderr and exit code 2.

    Args:
        main: the command.
        classes: its settings dataclasses.
        epilogue: makes the lines that follow the settings in ``--help``.
    """
    define_flags(*classes)

    def parse(argv: Sequence[str]) -> list[str]:
        if any(word in HELP_WORDS for word in argv[1:]):
            _print_help(help_text(epilogue()))
            sys.exit(0)
        with exit_on_usage_error():
            try:
                rest = flags.FLAGS(list(argv))
            except ValueError as error:  # absl's answer to --noname=value
                raise UsageError(f"{error}.") from error
            if len(rest) > 1:
                raise UsageError(
                    f"every setting is written --name=value, without spaces. Received: {' '.join(rest[1:])}."
                )
        return rest

    def guarded(argv: list[str]) -> Any:
        with exit_on_usage_error():
            return main(argv)

    app.run(guarded, flags_parser=parse)


def help_text(epilogue: Iterable[str] = (), flag_values: flags.FlagValues = flags.FLAGS) -> str:
    """Returns the command's description, its settings by section, and the lines of `epilogue`."""
    sections: dict[str, list[str]] = {}
    for name in flag_values:
        flag = flag_values[name]
        if isinstance(flag, SettingFlag):
            sections.setdefault(flag.field.metadata["section"], []).append(_help_line(flag.field))
    if "files" in sections:  # what a command works on comes before where it writes
        sections["files"] = sections.pop("files")
    lines = [(sys.modules["__main__"].__doc__ or "").strip(), ""]
    for section, entries in sections.items():
        lines += [f"{section}:", *entries, ""]
    lines.append("Also: --flagfile=FILE reads flags from a file; the last of several values counts.")
    return "\n".join([*lines, *epilogue]).strip()


def _print_help(help_lines: str) -> None:
    try:
        print(help_lines, flush=True)
    except BrokenPipeError:  # `--help | head` closed the pipe; keep the interpreter's last flush quiet too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _help_line(field: dataclasses.Field) -> str:
    parser, shown = field.metadata["parser"], field.metadata["default_text"]
    choices = f" {{{','.join(parser.choices)}}}" if parser.choices else ""
    if field.default is OPEN:
        shown = "preset"
    elif shown is None and not (field.default is None and is_optional(field)):
        shown = show(field.default)
    name = f"--[no]{field.name}" if parser.boolean else f"--{field.name}"
    return f"  {name:<29}{field.metadata['help']}{choices}{f' [{shown}]' if shown else ''}"


def default_directory(command: str, model: str) -> str:
    """Returns ``runs/<command>-<run>-<export>`` for the path of a model."""
    parts = [part for part in Path(model).absolute().parts[-2:] if part != "saved_models"]
    return f"runs/{command}-{'-'.join(parts)}"


def plan_table(lines: Mapping[str, str]) -> str:
    """Returns the plan of a run, a line per entry."""
    return "\n".join(f"{name:<10}{line}" for name, line in lines.items())


class CallableModule(types.ModuleType):
    """A module that, when it is called, calls the function that has its name.

    It lets ``advtf.evaluate(...)`` be a function and ``python -m advtf.evaluate`` a command.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        function = getattr(self, self.__name__.rpartition(".")[2])
        return function(*args, **kwargs)
