"""What holds of every flagfile, whatever its paper."""

import re

import pytest
from helpers.flagfiles import FOLDER, ROOT, content, experiments, header, names, parsed

from advtf.training.settings import RunOptions, TrainConfig

PAPERS = {"liu2020": "Liu et al. 2020", "li2023": "Li & Spratling 2023"}
INCLUDE = re.compile(r"--flagfile=flags/(.+)\.flags")


def lines(name):
    return [line for line in content(name).splitlines() if not line.startswith("#")]


def included(name):
    """The file that this one is a variant of, or None."""
    found = INCLUDE.fullmatch(lines(name)[0])
    return found and found[1]


@pytest.mark.parametrize("name", names())
def test_parses_and_resolves(name):
    settings, options = parsed(name)
    assert parsed(name, by="recipe") == (settings, options)
    assert isinstance(TrainConfig.of(settings), TrainConfig) and isinstance(
        RunOptions.of(options), RunOptions
    )


@pytest.mark.parametrize("name", experiments())
def test_the_header_begins_with_a_title_and_the_command_of_the_file_itself(name):
    title, command, *_ = header(name).splitlines()
    paper, _, rest = name.partition("/")
    source = (
        r"(Liu et al\. 2020|Li & Spratling 2023), (Tables?|Figures?) \d.*" if paper in PAPERS else "ours, .+"
    )
    assert re.fullmatch(rf".+: {source}\.", title)
    recipe, *more = command.removeprefix("python -m advtf.main --recipe=").split()
    assert recipe == f"{paper}/{rest.replace('/', '_')}" and not (more and paper in PAPERS)


@pytest.mark.parametrize("name", names())
def test_shows_only_what_differs_from_the_file_that_it_includes(name):
    base = included(name)
    alone = ("li2023/base", "liu2020/mnist/lenet/base", "liu2020/cifar10/base")
    assert base or name in alone or name.partition("/")[0] not in PAPERS
    assert sum(line.startswith("--flagfile") for line in lines(name)) == bool(base)
    if base:
        own, shared = ({**settings, **options} for settings, options in (parsed(name), parsed(base)))
        written = [re.match(r"--(\w+)", line)[1] for line in lines(name)[1:]]
        assert len(written) == len(set(written))
        assert set(written) == {flag for flag in own if flag not in shared or own[flag] != shared[flag]}


@pytest.mark.parametrize("name", names())
def test_stands_in_the_folder_of_its_paper_data_set_and_model(name):
    settings, _ = parsed(name)
    paper, *folders = name.split("/")[:-1]
    named = {folder for folder, written in PAPERS.items() if written in content(name)}
    assert named == {paper} & PAPERS.keys()
    if paper not in PAPERS:  # a recipe of ours
        folders = [paper, *folders]
    if folders:
        assert folders[0] == settings["dataset"]
    if len(folders) > 1:
        assert folders[1] == {"wide_resnet": "wrn34_10"}.get(settings["model"], settings["model"])


def test_the_folder_holds_only_flagfiles_and_readable_paths():
    assert {path.suffix for path in FOLDER.rglob("*") if path.is_file()} == {".flags"}
    for name in experiments():
        for path in re.findall(r"\bflags/\S+\.flags", content(name)):
            assert (ROOT / path).is_file()
