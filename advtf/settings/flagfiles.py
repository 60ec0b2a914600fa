"""Flagfiles, which hold flags line by line and may include each other, and the recipes among them.

A recipe is a flagfile of the folder ``flags/``, which is part of the installed package, under a short name:
the path in the folder, where slashes and underscores are alike. So ``liu2020/cifar10_resnet18_cosine`` is
``flags/liu2020/cifar10/resnet18/cosine.flags``. What is given beside a recipe, before or after it, counts
more.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from advtf.errors import UsageError, nearest, show_text

_PREFIX = "flags"  # how the files of the folder name each other: from the repository's root
_PACKAGE = Path(__file__).parents[1]


def recipes_folder() -> Path:
    """Returns the folder of the recipes: in the installed package, or beside it in a checkout."""
    installed = _PACKAGE / "recipes"
    return installed if installed.is_dir() else _PACKAGE.parent / _PREFIX


def recipes() -> dict[str, Path]:
    """Returns short name -> flagfile for every recipe, sorted, and for the files that they share."""
    folder = recipes_folder()
    found = {}
    for file in folder.rglob("*.flags"):
        paper, *rest = file.relative_to(folder).with_suffix("").parts
        found["/".join(filter(None, (paper, "_".join(rest))))] = file
    return dict(sorted(found.items()))


def find_recipe(name: str) -> Path:
    """Returns the flagfile of a recipe.

    Args:
        name: its short name, or its path in the folder, with or without ``flags/`` and ``.flags``.

    Raises:
        UsageError: there is none; the message has the nearest name.
    """
    wanted = name.removeprefix(f"{_PREFIX}/").removesuffix(".flags")
    known = recipes()
    if not name:
        raise UsageError("recipe must be a name that --recipe=list lists. Received: --recipe without a name.")
    for short, file in known.items():
        if _alike(short) == _alike(wanted):
            return file
    raise UsageError(
        "recipe must be a name that --recipe=list lists. "
        f"Received: recipe={show_text(name)}.{nearest(wanted, known)}"
    )


def recipe_list() -> str:
    """Returns a line for every experiment: its short name and the title in its header."""
    titles = {name: _title(file) for name, file in recipes().items() if file.stem != "base"}
    width = max(map(len, titles), default=0)
    return "\n".join(f"{name:<{width}}  {title}" for name, title in titles.items())


def expanded(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments of a command line with the flags of flagfiles in the places of these.

    Raises:
        UsageError: a file that is missing, is not one of flags, or includes itself.
    """
    return list(_expanded(arguments, None, ()))


def without_recipe(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Returns the name that ``--recipe`` gives, None without one, and the other arguments.

    Raises:
        UsageError: two recipes.
    """
    names = [_value(argument, "recipe") for argument in arguments]
    given = [name for name in names if name is not None]
    if len(set(given)) > 1:
        raise UsageError(f"one recipe can be given. Received: {' and '.join(f'recipe={n}' for n in given)}.")
    rest = [argument for argument, name in zip(arguments, names, strict=True) if name is None]
    return given[0] if given else None, rest


def asks_for_list(arguments: Sequence[str]) -> bool:
    """Tells whether ``--recipe=list`` is among the arguments."""
    return any(_value(argument, "recipe") == "list" for argument in _joined(arguments))


def recipe_flags(name: str) -> list[str]:
    """Returns the flags of a recipe and of the files that it includes.

    Raises:
        UsageError: there is no such recipe.
    """
    file = find_recipe(name)
    return list(_expanded(_lines(file), file, (file,)))


def _expanded(arguments: Iterable[str], file: Path | None, open_files: tuple[Path, ...]) -> Iterator[str]:
    """Yields `arguments`, which stand in `file`, with flagfiles replaced by their flags."""
    for argument in _joined(arguments):
        name = _value(argument, "flagfile")
        if name is None:
            yield argument
            continue
        included = _resolved(name, file)
        if included in open_files:
            raise UsageError(f"a flagfile must not include itself. Received: {included}, by way of {file}.")
        yield from _expanded(_lines(included), included, (*open_files, included))


def _joined(arguments: Iterable[str]) -> Iterator[str]:
    """Yields the arguments, ``--flagfile NAME`` and ``--recipe NAME`` as one word with an equals sign."""
    rest = iter(arguments)
    for argument in rest:
        if argument in ("--flagfile", "-flagfile", "--recipe", "-recipe"):
            value = next(rest, "--")
            argument += "=" if value.startswith("--") else f"={value}"
        yield argument


def _value(argument: str, flag: str) -> str | None:
    """Returns what an argument gives to a flag; None where it is about another one."""
    name, equals, value = argument.partition("=")
    return value.strip() if equals and name in (f"--{flag}", f"-{flag}") else None


def _resolved(name: str, includer: Path | None) -> Path:
    """Returns the flagfile called `name` on the command line (`includer` is None) or in a flagfile.

    A path is one from the working directory, else from a folder around the file that includes it. Beneath
    ``flags/`` the recipes are found from everywhere, and a recipe includes recipes only, whatever lies in the
    working directory.
    """
    if not name:
        raise UsageError("flagfile must be the path of a file. Received: --flagfile without a name.")
    path, folder = Path(name).expanduser(), recipes_folder()
    recipe = [folder / path.relative_to(_PREFIX)] if path.is_relative_to(_PREFIX) else []
    if recipe and includer is not None and includer.is_relative_to(folder):
        places = recipe
    else:
        around = includer.parents if includer else ()
        places = [path, *(parent / path for parent in around), *recipe]
    for place in places:
        if place.exists():
            return place.absolute()
    where = f" (in {includer})" if includer else ""
    raise UsageError(
        f"flagfile must be the path of a file, from the working directory. Received: flagfile={name}{where}, "
        "which does not exist. For an experiment of a paper use --recipe; --recipe=list lists them."
    )


def _lines(file: Path) -> list[str]:
    """Returns the flags in a flagfile; empty lines and those that begin with # or // are skipped.

    Raises:
        UsageError: it cannot be read, or a line is not a flag.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text in UTF-8"
        raise UsageError(f"flagfile must be a readable file. Received: flagfile={file} ({reason}).") from None
    flags = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if line and not line.startswith(("#", "//")):
            name = line.partition("=")[0]
            if not name.startswith("-") or any(map(str.isspace, name)):
                raise UsageError(
                    f"every line of a flagfile must be --name=value, or begin with #. "
                    f"Received: {show_text(line)} ({file}, line {number})."
                )
            flags.append(line)
    return flags


def _alike(name: str) -> str:
    return name.replace("/", "_")


def _title(file: Path) -> str:
    """Returns the first line of a flagfile without its mark."""
    with file.open(encoding="utf-8") as lines:
        return next(lines, "").lstrip("# ").strip()
