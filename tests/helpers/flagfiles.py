"""The flagfiles by name, such as "liu2020/mnist/lenet/cosine", and what they set."""

import contextlib
from pathlib import Path

from absl import flags

from advtf.settings.commands import define_flags, given_flags, parse_flags
from advtf.training.settings import RunOptions, TrainConfig

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "flags"


def names(paper=""):
    """Every flagfile of a paper, the base files among them."""
    return sorted(
        path.relative_to(FOLDER).with_suffix("").as_posix() for path in (FOLDER / paper).rglob("*.flags")
    )


def experiments(paper=""):
    """Every flagfile that is an experiment: one that is not a base of others only."""
    return [name for name in names(paper) if not name.endswith("/base")]


def content(name):
    return (FOLDER / f"{name}.flags").read_text()


def header(name):
    """The comment at the top of the file, without the marks."""
    lines = content(name).splitlines()
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines if line.startswith("#"))


def parsed(name, *more, by="flagfile"):
    """(settings of the training, options of the run) of the file and the flags after it, as typed.

    Args:
        by: the flag that names the file, "flagfile" or "recipe".
    """
    values = flags.FlagValues()
    define_flags(TrainConfig, RunOptions, flag_values=values)
    given = f"--flagfile=flags/{name}.flags" if by == "flagfile" else f"--recipe={name}"
    with contextlib.chdir(ROOT):
        parse_flags([given, *more], recipes=True, flag_values=values)
    return given_flags(values, TrainConfig), given_flags(values, RunOptions)
