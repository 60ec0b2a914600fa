"""The options of a script, and the flags after ``--`` that it passes on to a command."""

import argparse
import sys
from collections.abc import Sequence


def parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser whose ``--help`` shows the whole description, as it is written."""
    spec = sys.modules["__main__"].__spec__
    return argparse.ArgumentParser(
        prog=f"python -m {spec.name.removesuffix('.__main__')}" if spec else None,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


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
