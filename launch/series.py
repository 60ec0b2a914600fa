"""What the comparisons of several runs share; not a script."""

import subprocess
import sys
from pathlib import Path

from advtf.storage.runfiles import RunDirectory


def finished(folder: str, arguments: list[str]) -> RunDirectory:
    """Returns a finished run of `python -m advtf.main`, trained or continued now if it was not."""
    run = RunDirectory(Path(folder))
    resume = ["--resume"] if run.state() in ("finished", "unfinished") else []
    command("advtf.main", *arguments, f"--out_dir={run.path}", *resume)
    return run


def command(module: str, *arguments: str) -> None:
    """Runs `python -m module` and stops everything if it fails."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def value_of(name: str, arguments: list[str], default: str) -> str:
    """Returns the value of the last `--name=value`, which is the one that counts."""
    found = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"--{name}=")]
    return found[-1] if found else default
