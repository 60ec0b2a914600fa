"""The README's default run as a whole process: from the command to its last line.

A round is one process, ``python -m advtf.main``, which trains on the digits, measures and exports. There is
no other library to compare with; the ratio is to the seconds that the run may take on a quiet machine.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from types import SimpleNamespace

from launch.common.benchmark import Comparison
from launch.common.timing import seconds_of

LIMIT = 20.0  # seconds


def compare(options: SimpleNamespace) -> Iterator[Comparison]:
    """Yields one comparison."""
    flags = [f"--epochs={options.epochs}"] if options.epochs else []
    yield Comparison(
        what="python -m " + " ".join(["advtf.main", *flags]),
        ours="the whole process",
        against=f"{LIMIT:g} s",
        pairs=[(seconds_of(lambda: _run(flags)), LIMIT) for _ in range(options.rounds)],
        work="one run",
        goal=1.0,
    )


def _run(flags):
    with tempfile.TemporaryDirectory() as folder:
        places = [f"--out_dir={folder}/run", f"--export_dir={folder}/export"]
        command = [sys.executable, "-m", "advtf.main", *flags, *places]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
