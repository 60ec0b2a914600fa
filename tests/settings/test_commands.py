"""The command line: help, flags, and mistakes, which are one line and exit code 2."""

import subprocess
import sys

import pytest

from advtf.errors import UsageError
from advtf.settings.commands import CommandOptions, default_directory, plan_table

COMMAND = '''"""Describes itself."""
import dataclasses, sys
from absl import flags
from advtf.settings.commands import CommandOptions, given_flags, run_command
from advtf.settings.fields import Settings, choice, real, setting, switch

@dataclasses.dataclass(frozen=True, kw_only=True)
class Example(Settings):
    eps: float = setting("attack", real(), "the radius")
    model: str = setting("model", choice(("lenet", "vgg")), "the architecture", "vgg")
    augment: bool = setting("data", switch(), "crop and flip", False)

    def completed(self, given):
        return {} if "eps" in given else {"eps": 0.5}

def main(argv):
    given = given_flags(flags.FLAGS, Example)
    options = CommandOptions.of(given_flags(flags.FLAGS, CommandOptions))
    print(given, Example.of(given), options.out_dir, sep="\\n")

try:
    run_command(main, CommandOptions, Example, epilogue=lambda: ["", "The end."])
finally:
    heavy = {"tensorflow", "keras", "numpy"} & set(sys.modules)
    if heavy:
        print("imported", heavy)
'''


def run(*arguments: str, **settings) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, timeout=60, **settings
    )


@pytest.mark.parametrize("word", ["--help", "-h", "--helpshort"])
def test_help_lists_the_settings_by_section(word):
    result = run("--eps=1", word)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "Describes itself." and lines[-1] == "The end."
    assert "imported" not in result.stdout
    attack = lines.index("attack:")
    assert lines[attack + 1] == f"  {'--eps':<29}the radius [preset]"
    assert f"  {'--model':<29}the architecture {{lenet, vgg}} [vgg]" in lines
    assert f"  {'--[no]augment':<29}crop and flip [false]" in lines
    files = lines.index("files:")  # where it writes comes last, although it is declared first
    assert files > lines.index("data:") > attack
    assert f"  {'--out_dir':<29}folder of the results" in lines[files:]


def test_help_into_a_closed_pipe_is_quiet():
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, "--help"], stdout=-1, stderr=-1, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_a_command_whose_reader_has_gone_ends_in_one_line():
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, "--eps=1"], stdout=-1, stderr=-1, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == "error: the output was closed by the program that read it.\n"
    assert process.returncode == 141


def test_flags_reach_the_settings_as_they_were_typed():
    result = run("--eps=8/255", "--augment", "--out_dir", "runs/a b", "--noresume")
    assert (result.returncode, result.stderr) == (0, "")
    given, settings, out_dir = result.stdout.splitlines()
    assert given == "{'eps': '8/255', 'augment': 'true'}"
    assert settings == f"Example(eps={8 / 255}, model='vgg', augment=True)" and out_dir == "runs/a b"


def test_the_last_of_several_values_counts_and_flagfiles_may_be_nested(tmp_path):
    (tmp_path / "base.flags").write_text("--eps=0.1\n--model=lenet\n")
    (tmp_path / "more.flags").write_text("# a comment\n--flagfile=base.flags\n--eps=0.2\n")
    result = run("--flagfile=more.flags", "--noaugment", cwd=tmp_path)
    assert "Example(eps=0.2, model='lenet', augment=False)" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--eps=x/2"], "eps must be a number"),
        (["--epz=0.1"], "Received: --epz. Did you mean --eps?"),
        (["--model=lennet"], "Did you mean 'lenet'?"),
        (["train"], "Received: train"),
        (["--flagfile=missing.flags"], "which does not exist"),
        (["--resume", "--overwrite"], "exclude each other"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_two(arguments, message):
    # tests/commands/test_bad_inputs.py has many more, of the real commands.
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr


def test_continuing_and_replacing_exclude_each_other():
    with pytest.raises(UsageError, match="Received: resume=True, overwrite=True"):
        CommandOptions(resume=True, overwrite=True)


def test_default_directory_names_the_run_and_the_export():
    assert default_directory("evaluate", "saved_models/x/last") == "runs/evaluate-x-last"
    assert default_directory("evaluate", "/a/b/c/") == "runs/evaluate-b-c"
    assert default_directory("analyze", "saved_models/last") == "runs/analyze-last"


def test_the_plan_is_a_line_for_each_entry():
    assert plan_table({"data": "digits", "optimizer": "adam"}) == "data      digits\noptimizer adam"
