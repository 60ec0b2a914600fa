"""The commands and experiments as a user starts them: in processes of their own, in a working directory."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
MINUTES = 5  # until a process is taken to hang


def environment(*first):
    """The environment in which this checkout is imported; modules are looked for in `first` before it."""
    paths = [*map(str, first), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def start(module, folder, *arguments, first=()):
    """Starts `python -m module` in `folder` and returns the process."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=folder,
        env=environment(*first),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, minutes=MINUTES):
    """Waits for a process; returns (exit code, stdout, stderr)."""
    with process:
        out, error = process.communicate(timeout=60 * minutes)
    return process.returncode, out, error


def stop(process, ready, number, delay=0.0):
    """Sends a signal `delay` seconds after `ready()` has become true; returns (exit code, stdout, stderr)."""
    deadline = time.monotonic() + 60 * MINUTES
    while not ready() and process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            raise TimeoutError(finish(process))
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(number)
    return finish(process)


def run(module, folder, *arguments, first=()):
    """Runs `python -m module` in `folder`; returns (exit code, stdout, stderr)."""
    return finish(start(module, folder, *arguments, first=first))


def poisoned(folder):
    """A folder in which importing TensorFlow or Keras ends the process: nothing may do it for an answer."""
    for name in ("tensorflow", "keras", "tensorflow_datasets"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise SystemExit('imported too early')")
    return folder
