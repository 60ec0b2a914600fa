"""What every command does alike: flags from settings, help, errors of one line, shared options.

`run_command` is the way in: it makes a flag of every field of the settings dataclasses, reads the command
line, and calls the command's ``main``. A flag keeps the text that was typed; the settings' constructor is
where it is parsed. This module does not import TensorFlow.
"""

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import sys
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from advtf import __version__
from advtf.errors import UsageError, alternatives, disk_full, nearest, show_text
from advtf.settings import flagfiles
from advtf.settings.fields import OPEN, Settings, is_optional, setting, show, switch, text

USAGE_EXIT_CODE = 2
HELP_WORDS = ("--help", "-help", "-h", "-?", "--helpshort", "-helpshort")
OTHER_FLAGS = ("help", "version", "flagfile")  # of every command, beside its settings
RECIPE_HELP = (
    "name of an experiment of a paper; list: print all names; flags given beside it override its own"
)
HELP_COLUMN = 31  # where the descriptions begin


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
    """Prints a `UsageError` or an absl flag error as one line on stderr and exits with code 2.

    A full disk ends in one line as well, with code 1, and so does a pipe that is closed at its end, with
    the code of signal 13.
    """
    try:
        yield
    except (UsageError, flags.Error) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(USAGE_EXIT_CODE)
    except BrokenPipeError:  # such as of `| head`
        print("error: the output was closed by the program that read it.", file=sys.stderr)
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        full = disk_full(error)
        if full is None:
            raise
        print(f"error: {full} Free some space, then run the command again.", file=sys.stderr)
        sys.exit(1)


def run_command(
    main: Callable[[list[str]], Any],
    *classes: type,
    epilogue: Callable[[], Iterable[str]] = tuple,
    recipes: bool = False,
    positional: str | None = None,
) -> None:
    """Runs a command: defines the flags of `classes`, parses them and calls ``main(argv)``.

    ``--help`` prints the settings and exits with 0, as ``--version`` and ``--recipe=list`` do with what they
    are for. A mistake, of a flag or a `UsageError` from `main`, ends in one line on stderr and exit code 2.

    Args:
        main: the command.
        classes: its settings dataclasses.
        epilogue: makes the lines that follow the settings in ``--help``.
        recipes: whether the flagfiles of `advtf.settings.flagfiles` are experiments of this command.
        positional: the setting that the first argument is where it is written without a name.
    """
    define_flags(*classes)

    def parse(argv: Sequence[str]) -> list[str]:
        if positional and len(argv) > 1 and not argv[1].startswith("-"):
            argv = [argv[0], f"--{positional}={argv[1]}", *argv[2:]]
        words = [argument.partition("=")[0] for argument in argv[1:]]
        if any(word in HELP_WORDS for word in words):
            width = max(shutil.get_terminal_size((110, 24)).columns, 80)
            _print_and_exit(help_text(epilogue(), recipes=recipes, width=width))
        if "--version" in words:
            _print_and_exit(f"advtf {__version__}")
        if recipes and flagfiles.asks_for_list(argv[1:]):
            _print_and_exit(flagfiles.recipe_list())
        with exit_on_usage_error():
            parse_flags(argv[1:], recipes=recipes)
        return list(argv[:1])

    def guarded(argv: list[str]) -> None:
        try:
            with exit_on_usage_error():
                main(argv)
                sys.stdout.flush()  # what is printed may go to a file on a full disk
        finally:
            try:
                sys.stdout.flush()
            except OSError:
                _mute_stdout()

    app.run(guarded, flags_parser=parse)


def parse_flags(
    arguments: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS, *, recipes: bool = False
) -> None:
    """Gives the flags of settings their texts.

    Flagfiles and a recipe are replaced by what stands in them; the flags of a recipe come first, so that what
    is given beside it counts. absl's own flags, which would change what a command does, are not accepted.

    Args:
        arguments: the command line without the program.
        flag_values: where the settings are defined as flags.
        recipes: whether ``--recipe`` is accepted.

    Raises:
        UsageError: an argument that is not a flag of a setting, or a flagfile or recipe that cannot be read.
    """
    arguments = flagfiles.expanded(arguments)
    if recipes:
        recipe, arguments = flagfiles.without_recipe(arguments)
        if recipe is not None:
            arguments = [*flagfiles.recipe_flags(recipe), *arguments]
    own = {name: flag for name in flag_values if isinstance(flag := flag_values[name], SettingFlag)}
    flag_values(["", *_canonical(arguments, own)])


def _canonical(arguments: Iterable[str], own: Mapping[str, SettingFlag]) -> Iterator[str]:
    """Yields every argument as ``--name=value``.

    Raises:
        UsageError: one that is not a flag of the command, or without its value.
    """
    rest = iter(arguments)
    for argument in rest:
        written, equals, value = argument.partition("=")
        name = re.sub("^--?", "", written)
        opposite = own.get(name.removeprefix("no")) if name.startswith("no") else None
        if not written.startswith("-") or not name.strip("-"):
            raise UsageError(
                "every setting must be written --name=value, with two hyphens and without spaces. "
                f"Received: {show_text(argument)}."
            )
        if name in own and own[name].boolean:
            yield f"--{name}={value if equals else 'true'}"
        elif name in own:
            value = value if equals else next(rest, None)
            if value is None or (not equals and value.startswith("--")):
                raise UsageError(f"--{name} needs a value, as in --{name}=VALUE. Received: {argument} alone.")
            yield f"--{name}={value}"
        elif opposite is not None and opposite.boolean:
            if equals:
                raise UsageError(
                    f"--{name} takes no value. Received: {show_text(argument)}. "
                    f"Use --{name} or --{opposite.name}=false."
                )
            yield f"--{opposite.name}=false"
        else:
            raise UsageError(_unknown_flag(name, own))


def _unknown_flag(name: str, own: Mapping[str, SettingFlag]) -> str:
    """Says that the command has no such flag, and which one may be meant."""
    plain = name.replace("-", "_").lower()
    words = plain.replace("_", " ")
    known = (*own, *OTHER_FLAGS)
    longer = [other for other in known if other.startswith(plain)]
    shorter = sorted((other for other in known if plain.startswith(other)), key=len)[-1:]
    described = [other for other in own if own[other].field.metadata["help"].startswith(words)]
    meant = [plain] if plain in own else longer or shorter or described
    if len(plain) > 1 and 0 < len(meant) < 4:
        hint = f" Did you mean {alternatives([f'--{other}' for other in meant])}?"
    else:
        hint = nearest(plain, own, mark="--")
    return f"the flag must be one of those that --help lists. Received: --{show_text(name)}.{hint}"


def help_text(
    epilogue: Iterable[str] = (),
    flag_values: flags.FlagValues = flags.FLAGS,
    *,
    recipes: bool = False,
    width: int = 110,
) -> str:
    """Returns the command's description, its settings by section, and the lines of `epilogue`.

    Args:
        epilogue: lines that follow the settings.
        flag_values: where the settings are defined as flags.
        recipes: whether the command has ``--recipe``.
        width: where the lines of the settings are broken, in characters.
    """
    sections: dict[str, list[str]] = {}
    if recipes:
        sections["recipe"] = [_help_line("--recipe", RECIPE_HELP, width)]
    for name in flag_values:
        flag = flag_values[name]
        if isinstance(flag, SettingFlag):
            line = _help_line(_usage(flag.field), _description(flag.field), width)
            sections.setdefault(flag.field.metadata["section"], []).append(line)
    if "files" in sections:  # what a command works on comes before where it writes
        sections["files"] = sections.pop("files")
    lines = [(sys.modules["__main__"].__doc__ or "").strip(), ""]
    for section, entries in sections.items():
        lines += [f"{section}:", *entries, ""]
    lines.append(
        "Also: --flagfile=FILE reads flags from a file; the last of several values counts. "
        "--version prints the version."
    )
    return "\n".join([*lines, *epilogue]).strip()


def _usage(field: dataclasses.Field) -> str:
    return f"--[no]{field.name}" if field.metadata["parser"].boolean else f"--{field.name}"


def _description(field: dataclasses.Field) -> str:
    """Returns the help of a setting with its choices and its default."""
    parser, shown = field.metadata["parser"], field.metadata["default_text"]
    choices = f" {{{', '.join(parser.choices)}}}" if parser.choices else ""
    if field.default is OPEN:
        shown = "preset"
    elif shown is None and not (field.default is None and is_optional(field)):
        shown = show(field.default)
    return f"{field.metadata['help']}{choices}{f' [{shown}]' if shown else ''}"


def _help_line(usage: str, description: str, width: int) -> str:
    lines = textwrap.wrap(description, width - HELP_COLUMN, break_long_words=False, break_on_hyphens=False)
    return f"  {usage:<{HELP_COLUMN - 2}}" + f"\n{' ' * HELP_COLUMN}".join(lines)


def _print_and_exit(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `--help | head` closed the pipe
        _mute_stdout()
    sys.exit(0)


def _mute_stdout() -> None:
    """Sends what is still to be printed nowhere, so that the interpreter's last flush is quiet, too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
