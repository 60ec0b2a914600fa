"""What holds of every script of launch: its name starts it, and its help needs no TensorFlow."""

import json
import re
import subprocess
import sys

import pytest
from helpers.command import ROOT, environment, poisoned

SCRIPTS = ["launch.benchmarks"] + sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("benchmarks", "experiments")
    for path in (ROOT / "launch" / folder).glob("[!_]*.py")
    if "__main__" in path.read_text()
)
HELP = """
import contextlib, io, json, runpy, sys
found = {}
for name in sys.argv[1:]:
    sys.argv[1:] = ["--help"]
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    found[name] = printed.getvalue()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def helps(tmp_path_factory):
    """name -> what `--help` prints; all in one process, in which TensorFlow cannot be imported."""
    poison = poisoned(tmp_path_factory.mktemp("scripts") / "poison")
    done = subprocess.run(
        [sys.executable, "-c", HELP, *SCRIPTS], env=environment(poison), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_names_the_command_and_its_options(helps, name):
    assert helps[name].startswith(f"usage: python -m {name} ")
    assert "options:" in helps[name]
    commands = re.findall(r"^ +python -m (launch\.[\w.]+)", helps[name], re.MULTILINE)
    assert commands and set(commands) == {name}


@pytest.mark.parametrize("folder", ["benchmarks", "common", "experiments", "reproduce", "sweep"])
def test_a_package_names_what_is_inside(folder):
    inside = {path.stem for path in (ROOT / "launch" / folder).glob("[!_]*.py")}
    described = (ROOT / "launch" / folder / "__init__.py").read_text()
    assert set(re.findall(r"^(\w+) {2,}\w", described, re.MULTILINE)) == inside
