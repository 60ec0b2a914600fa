"""Runs commands one after another in forks of one process, which has imported them but not TensorFlow.

A fork costs milliseconds where a process of its own costs half a second. The flags of absl are global, so
that every command line needs a process; and what a mistake must not do (start TensorFlow, write files) is
watched. As a script it reads a JSON list of [command, arguments] from stdin, and writes their results.
"""

import importlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from helpers import command

HEAVY = ("tensorflow", "keras", "tensorflow_datasets")
COMMANDS = ("main", "evaluate", "analyze", "convert", "report")


def run_all(cases, folder, poison):
    """Runs commands in `folder`, where nothing may be written.

    Args:
        cases: (command, arguments) each; a command is one of `COMMANDS`.
        folder: the working directory.
        poison: a folder for the TensorFlow of `helpers.command.poisoned`, which ends whoever imports it.

    Returns:
        A dict for each case: exit `code`, `out`, `error`, `seconds`, and `changed`, the paths that the
        command made, removed or wrote.
    """
    command.poisoned(poison)
    shutil.rmtree(poison / "tensorflow_datasets")  # whose files are looked at, but not imported
    environment = command.environment(poison, command.ROOT / "tests")
    done = subprocess.run(
        [sys.executable, "-m", "helpers.worker", str(folder)],
        input=json.dumps(cases),
        env=environment,
        capture_output=True,
        text=True,
        timeout=60 * command.MINUTES,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _serve(folder):
    for name in COMMANDS:
        importlib.import_module(f"advtf.{name}")
        del sys.modules[f"advtf.{name}"]  # it is run again as __main__
    cases = json.load(sys.stdin)
    os.chdir(folder)
    results, before = [], _tree()
    for name, arguments in cases:
        result = _run(f"advtf.{name}", arguments)
        after = _tree()
        result["changed"] = sorted(path for path, _ in before.items() ^ after.items())
        results.append(result)
        before = after
    json.dump(results, sys.stdout)


def _run(module, arguments):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        began = time.perf_counter()
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(error.fileno(), 2)
            os._exit(_code(module, arguments))
        _, status = os.waitpid(child, 0)
        seconds = time.perf_counter() - began
        texts = []
        for file in (out, error):
            file.seek(0)
            texts.append(file.read().decode())
    return {"code": os.waitstatus_to_exitcode(status), "out": texts[0], "error": texts[1], "seconds": seconds}


def _code(module, arguments):
    sys.argv = [module, *arguments]
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1 if stopped.code else 0
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    if sys.modules.keys() & set(HEAVY):
        print("imported too early:", *sys.modules.keys() & set(HEAVY), file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _tree():
    found = {}
    for path in Path().rglob("*"):
        status = path.stat()
        found[str(path)] = (status.st_mtime_ns, status.st_size)
    return found


if __name__ == "__main__":
    _serve(sys.argv[1])
