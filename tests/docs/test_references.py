"""Every module, public name, path, command and flag that the README and the guides mention exists."""

import importlib
import importlib.util
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from launch.benchmarks.__main__ import arguments_parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = ("main", "evaluate", "analyze", "convert", "report")
# Packages of launch/ that tell their flags as the commands do.
DECLARED = ("launch.cluster", "launch.reproduce", "launch.sweep")
OTHER_FLAGS = {
    "--help",
    "--version",
    "--flagfile",
    "--logdir",
    "--strict",
    "--check",
    "--no",
}  # of absl, tensorboard, ...

_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
_NAME = re.compile(r"\badvtf(?:\.[A-Za-z_]\w*)+")
_PATH = re.compile(r"(?<![\w./-])(?:advtf|flags|launch|tests|docs)/[\w./*-]*[\w*/]")
_MODULE = re.compile(r"(?<![\w./<>-])\w+(?:/\w+)+\.(?:py|flags)")  # of a room, or from the root
_COMMAND = re.compile(r"python (?:-m )?((?:advtf|launch)[\w./]*)((?:[ \t]+(?:\\\n[ \t]*)?[^\s`#]+)*)")
_EXAMPLE = re.compile(r"python (docs/examples/\w+\.py)((?: --\S+)*)")
_FLAG = re.compile(r"(?<![\w-])--(?:\[no\])?[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)?")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code(page):
    """What stands in backticks on a page."""
    return _CODE.findall(page.read_text())


@cache
def flags_of(module):
    """The flags of a command, or the options that the source of a module of launch/ declares."""
    if module == "launch.benchmarks":  # whose options are made of the registry's
        return set(_FLAG.findall(arguments_parser().format_help()))
    if module.startswith("launch") and module not in DECLARED:
        sources = [Path(importlib.util.find_spec(module).origin), *(ROOT / "launch" / "common").glob("*.py")]
        return set(_FLAG.findall("\n".join(source.read_text() for source in sources)))
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    listed = re.findall(r"^  --(\[no\])?(\w+)", done.stdout, flags=re.MULTILINE)
    return {f"--{no}{name}" for switch, name in listed for no in (("", "no") if switch else ("",))}


@cache
def all_flags():
    return OTHER_FLAGS.union(*(flags_of(f"advtf.{command}") for command in COMMANDS))


def resolve(name):
    """Returns what a dotted name stands for; raises AttributeError where there is nothing."""
    found = importlib.import_module("advtf")
    parts = name.split(".")[1:]
    for i, part in enumerate(parts):
        module = "advtf." + ".".join(parts[: i + 1])
        try:
            found = getattr(found, part)
        except AttributeError:
            if importlib.util.find_spec(module) is None:
                raise
            found = importlib.import_module(module)
    return found


@pages
def test_names_resolve(page):
    names = {name for text in code(page) for name in _NAME.findall(text)}
    for name in sorted(names - {"advtf.x.y"}):
        try:
            resolve(name)
        except (AttributeError, ModuleNotFoundError) as error:
            raise AssertionError(f"{page.name} mentions {name}: {error}") from error


@pages
def test_paths_exist(page):
    for text in code(page):
        for path in _PATH.findall(text):
            assert any(ROOT.glob(path.rstrip("/"))), f"{page.name} mentions {path}"
        for path in _MODULE.findall(text):
            assert (ROOT / path).exists() or (ROOT / "advtf" / path).exists(), f"{page.name} mentions {path}"


@pages
def test_commands_and_their_flags_exist(page):
    for module, arguments in _COMMAND.findall("\n".join(code(page))):
        assert "/" not in module, f"{page.name} runs {module} as a file"
        module = module.rstrip(".")
        assert importlib.util.find_spec(module), f"{page.name} runs {module}"
        own, _, handed_on = arguments.partition(" -- ")
        known = flags_of(module) | {"--help", "--flagfile"}
        assert set(_FLAG.findall(own)) <= known, f"{page.name}: python -m {module}{own}"
        assert set(_FLAG.findall(handed_on)) <= all_flags(), f"{page.name}: python -m {module}{arguments}"


@pages
def test_commands_of_the_examples_exist(page):
    for path, arguments in _EXAMPLE.findall("\n".join(code(page))):
        assert (ROOT / path).exists() and set(_FLAG.findall(arguments)) <= flags_of("advtf.main")


@pages
def test_flags_exist(page):
    launched = {flag for module, _ in _COMMAND.findall("\n".join(code(page))) for flag in flags_of(module)}
    mentioned = {flag for text in code(page) if not text.startswith("```") for flag in _FLAG.findall(text)}
    placeholders = {"--name", "--noname"}
    assert mentioned <= all_flags() | launched | placeholders


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (ROOT / target).exists(), f"{page.name} links to {target}"


REGISTERED = {
    "guides/methods.md": ("advtf.training.methods.OBJECTIVES", "advtf.training.methods.ADVERSARIES"),
    "guides/foreign.md": ("advtf.evaluation.attacks.ATTACKS", "advtf.evaluation.attacks.SUITES"),
    "guides/studies.md": ("advtf.studies.STUDIES",),
    "guides/start.md": ("advtf.training.schedules.EPSILONS",),
}


@pytest.mark.parametrize("page", REGISTERED)
def test_guides_name_everything_registered(page):
    text = (ROOT / "docs" / page).read_text()
    names = [name for registry in REGISTERED[page] for name in resolve(registry)]
    assert names and not [name for name in names if f"`{name}`" not in text]


def test_mistakes_are_found():
    """The oracle of the checks above: names that do not exist are told from those that do."""
    assert callable(resolve("advtf.pgd"))
    assert resolve("advtf.attacks.losses").__name__ == "advtf.attacks.losses"
    for name in ("advtf.no_such_name", "advtf.attacks.no_such_module"):
        with pytest.raises((AttributeError, ModuleNotFoundError)):
            resolve(name)
    assert "--eps" in all_flags() and "--noresume" in all_flags() and "--epsilons" not in all_flags()
