"""The options of a script, and the flags after ``--`` that it passes on to a command."""

import argparse
import sys
from collections.abc import Sequence

MNIST_SCHEDULE = "cosine"  # the preset of MNIST


def parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser whose ``--help`` shows the whole description, as it is written."""
    spec = sys.modules["__main__"].__spec__
    return argparse.ArgumentParser(
        prog=f"python -m {spec.name.removesuffix('.__main__')}" if spec else None,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def runs_parser(description: str, *, schedule: bool = False) -> argparse.ArgumentParser:
    """Returns the parser of an experiment that starts the commands of `advtf`.

    Args:
        description: text of ``--help``.
        schedule: whether the ε schedule can be chosen, which also names the runs.
    """
    made = parser(description)
    made.add_argument("--data_dir", help="folder of prepared data sets")
    if schedule:
        made.add_argument(
            "--eps_sched", default=MNIST_SCHEDULE, help="ε schedule of the trainings [%(default)s]"
        )
    return made


def parse(made: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the arguments before ``--``; those after it are the attribute `flags` of the result.

    Args:
        made: the parser.
        arguments: of the command line, which is the default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    chosen = made.parse_args(given[:end])
    chosen.flags = given[end + 1 :]
    return chosen


def data_flags(chosen: argparse.Namespace) -> list[str]:
    """Returns the flag of the data folder for a command, if one was chosen."""
    return [f"--data_dir={chosen.data_dir}"] if chosen.data_dir else []
