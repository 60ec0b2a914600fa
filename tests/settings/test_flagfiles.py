"""Flagfiles that include each other, and recipes, which are named and found from any directory."""

import subprocess
import sys

import pytest
from helpers import command
from helpers.flagfiles import FOLDER, experiments, header, names

from advtf.errors import UsageError
from advtf.settings import flagfiles
from advtf.settings.flagfiles import asks_for_list, expanded, find_recipe, recipe_flags, without_recipe


def write(folder, **files):
    for name, lines in files.items():
        (folder / f"{name}.flags").write_text("\n".join(lines) + "\n")


def test_the_flags_of_a_file_stand_in_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, base=["--a=1", "--b=1"], more=["# a comment", "", "--flagfile=base.flags", "  --b=2 3 "])
    given = ["--x=0", "--flagfile=more.flags", "--y=1"]
    assert expanded(given) == ["--x=0", "--a=1", "--b=1", "--b=2 3", "--y=1"]
    assert (
        expanded(["-flagfile", "base.flags"]) == expanded(["--flagfile", "base.flags"]) == ["--a=1", "--b=1"]
    )
    assert expanded(["--flagfile=base.flags", "--flagfile=base.flags"]) == ["--a=1", "--b=1"] * 2


def test_a_file_is_found_from_the_folders_around_the_one_that_includes_it(tmp_path, monkeypatch):
    inner = tmp_path / "mine" / "inner"
    inner.mkdir(parents=True)
    write(inner, start=["--flagfile=mine/base.flags", "--flagfile=other.flags"], other=["--other=1"])
    write(tmp_path / "mine", base=["--base=1"])
    monkeypatch.chdir("/")
    assert expanded([f"--flagfile={inner}/start.flags"]) == ["--base=1", "--other=1"]
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere", other=["--other=2"])
    monkeypatch.chdir(tmp_path / "elsewhere")  # the working directory comes first
    assert expanded([f"--flagfile={inner}/start.flags"]) == ["--base=1", "--other=2"]


def test_a_recipe_is_made_of_recipes_only_whatever_lies_in_the_working_directory(tmp_path, monkeypatch):
    imitation = tmp_path / "flags" / "liu2020" / "mnist" / "lenet"
    imitation.mkdir(parents=True)
    write(imitation, base=["--eps=1"], cosine=["--eps=1"])
    wanted = recipe_flags("liu2020/mnist_lenet_cosine")
    monkeypatch.chdir(tmp_path)
    assert recipe_flags("liu2020/mnist_lenet_cosine") == wanted and wanted != ["--eps=1"]
    assert expanded(["--flagfile=flags/liu2020/mnist/lenet/cosine.flags"]) == ["--eps=1"]
    monkeypatch.chdir("/")
    assert expanded(["--flagfile=flags/liu2020/mnist/lenet/cosine.flags"]) == wanted


@pytest.mark.parametrize("name", names())
def test_every_file_has_one_short_name_and_is_found_by_its_path_too(name):
    paper, _, rest = name.partition("/")
    path = FOLDER / f"{name}.flags"
    for spelling in (f"{paper}/{rest.replace('/', '_')}", name, f"flags/{name}.flags"):
        assert find_recipe(spelling).samefile(path)
    assert len(flagfiles.recipes()) == len(names())


def test_the_list_has_every_experiment_with_the_title_of_its_header():
    lines = flagfiles.recipe_list().splitlines()
    wanted = {name.replace("/", "_"): header(name).splitlines()[0] for name in experiments()}
    listed = dict(line.split(maxsplit=1) for line in lines)
    assert {name.replace("/", "_"): title for name, title in listed.items()} == wanted


@pytest.mark.parametrize(
    ("arguments", "recipe", "rest"),
    [
        (["--a=1"], None, ["--a=1"]),
        (["--a=1", "--recipe=x", "--b"], "x", ["--a=1", "--b"]),
        (["--recipe=x", "-recipe=x"], "x", []),
        (["--recipe="], "", []),
    ],
)
def test_the_recipe_among_the_arguments(arguments, recipe, rest):
    assert without_recipe(arguments) == (recipe, rest)


def test_a_recipe_in_a_flagfile_and_as_a_word_of_its_own(tmp_path):
    write(tmp_path, mine=["--eps=0.1", "--recipe=liu2020/mnist_lenet_cosine"])
    assert without_recipe(expanded([f"--flagfile={tmp_path}/mine.flags"])) == (
        "liu2020/mnist_lenet_cosine",
        ["--eps=0.1"],
    )
    assert expanded(["--recipe", "x", "--a=1"]) == ["--recipe=x", "--a=1"]
    assert asks_for_list(["--recipe", "list"]) and not asks_for_list(["--out_dir=list"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--flagfile="], "flagfile must be the path of a file. Received: --flagfile without a name"),
        (["--flagfile"], "Received: --flagfile without a name"),
        (["--flagfile", "--a=1"], "Received: --flagfile without a name"),
        (["--flagfile=missing.flags"], r"flagfile=missing\.flags, which does not exist"),
        (["--flagfile=."], r"Is a directory"),
        (["--flagfile=circle.flags"], "must not include itself. Received: .*circle.flags, by way of .*other"),
        (["--flagfile=includes_missing.flags"], r"flagfile=gone \(in .*includes_missing.flags\)"),
        (["--flagfile=binary.flags"], "not text in UTF-8"),
        (["--flagfile=words.flags"], r"Received: eps=0.1 \(.*words.flags, line 2\)"),
        (["--flagfile=spaced.flags"], r"Received: --eps 0.1 \(.*spaced.flags, line 1\)"),
        (["--flagfile=empty_name.flags"], "without a name"),
    ],
)
def test_files_that_cannot_be_flagfiles(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, circle=["--flagfile=other.flags"], other=["--flagfile=circle.flags"])
    write(tmp_path, includes_missing=["--flagfile=gone"], words=["# one", "eps=0.1"], spaced=["--eps 0.1"])
    write(tmp_path, empty_name=["--flagfile="])
    (tmp_path / "binary.flags").write_bytes(b"\xff\xfe--eps=0.1")
    with pytest.raises(UsageError, match=message):
        expanded(arguments)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("liu2020/cifar10_resnet18_cosin", "Did you mean 'liu2020/cifar10_resnet18_cosine'"),
        ("", "Received: --recipe without a name"),
        ("../liu2020/mnist_lenet_cosine", "must be a name that --recipe=list lists"),
        ("x" * 500, r"500 characters"),
    ],
)
def test_a_recipe_that_does_not_exist(name, message):
    with pytest.raises(UsageError, match=message):
        find_recipe(name)


def test_two_recipes():
    with pytest.raises(UsageError, match=r"one recipe can be given\. Received: recipe=x and recipe=y"):
        without_recipe(["--recipe=x", "--recipe=y"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package as an installed wheel has it: built from this tree, unpacked into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    steps = ["egg_info", f"--egg-base={folder}", "build", f"--build-base={folder}"]
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", *steps], cwd=command.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "lib"


def test_the_built_package_has_the_recipes_and_lists_them_from_anywhere(wheel, tmp_path):
    packed = {
        path.relative_to(wheel / "advtf/recipes") for path in (wheel / "advtf/recipes").rglob("*.flags")
    }
    assert packed == {path.relative_to(FOLDER) for path in FOLDER.rglob("*.flags")}
    for arguments in (["--recipe=list"], ["--recipe=liu2020/mnist_lenet_cosine", "--out_dir=/dev/null/x"]):
        done = subprocess.run(
            [sys.executable, "-m", "advtf.main", *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(wheel)},
            capture_output=True,
            text=True,
        )
        if arguments[0] == "--recipe=list":
            assert (done.stderr, done.stdout) == ("", flagfiles.recipe_list() + "\n")
        else:  # the recipe is understood; the folder of the results is refused
            assert "/dev/null/x" in done.stderr and done.returncode == 2
