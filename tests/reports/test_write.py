"""Pages are well-formed and complete in themselves, and their numbers are those of the files."""

import copy
import itertools
import json
import math
import re
import shutil

import pytest
from helpers.analysis import fake_export
from helpers.damage import VALUES, damaged
from helpers.page import Page, evaluation, examples, found, results, training

from advtf.classifiers.manifest import read_manifest, weights_digest, write_manifest
from advtf.figures import training as figures
from advtf.reports import settings
from advtf.reports.settings import ReportOptions
from advtf.reports.write import write
from advtf.storage.files import write_json
from advtf.studies.run import FINISHED, AnalysisDirectory
from advtf.studies.settings import AnalyzeOptions, AnalyzeSettings
from advtf.training.settings import TrainConfig, describe

HOSTILE = "<script>alert(1)</script>&\"'<img src=x onerror=alert(2)>"
WARNING = "square broke 2 examples that pgd did not: gradients are masked."
FORBIDDEN = ("script", "link", "iframe", "object", "embed", "base", "form", "audio", "video")
LOADED = ("src", "href", "srcset", "data", "poster", "action", "formaction", "background", "manifest", "ping")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a finished training and an evaluation, and a report of both on one page."""
    folder = tmp_path_factory.mktemp("runs")
    run = training(folder / "a", content=results())
    examples(run.examples)
    run.figures.mkdir()
    figures.adversarial_grid(run.examples, run.figures / "adversarial_examples.png")
    training(folder / "b", content=results("test"), recorded=30)
    evaluation(folder / "c", found([WARNING]))
    analysis(folder / "d", run.figures / "adversarial_examples.png")
    return folder


def analysis(folder, picture, studies=("hessian", "surface")):
    """An analysis whose first study is finished."""
    run = AnalysisDirectory(folder)
    (folder / studies[0]).mkdir(parents=True)
    run.write_config(AnalyzeSettings(study=studies, model=("x/last", "x/best")), AnalyzeOptions())
    models = [{"name": f"x/{name}", "values": [44.127, 3.5], "loss": 1.5} for name in ("last", "best")]
    write_json(
        folder / "hessian" / "hessian.json", {"epsilon": 0.25, "models": models, "settings": {"seed": 3}}
    )
    shutil.copy(picture, folder / "hessian" / "hessian.png")
    write_json(folder / "hessian" / FINISHED, {"files": ["hessian.json", "hessian.png"], "seconds": 3.5})
    return run


def written(page, *paths):
    """The parsed page about folders, after the checks that hold for every page."""
    folders = [settings.recognised(str(path)) for path in paths]
    problems = write(folders, page)
    text = page.read_text()
    parsed = Page(text)
    check_structure(parsed)
    check_that_nothing_is_loaded(parsed, text)
    assert all(" ".join(problem.split()) in " ".join(parsed.text.split()) for problem in problems)
    return parsed, problems


def check_structure(page):
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))
    assert all(text.strip() for _, text in page.headings)
    ids = page.ids()
    assert len(set(ids)) == len(ids)
    labelled = [
        a[name] for _, a in page.elements for name in ("aria-labelledby", "aria-describedby") if name in a
    ]
    assert set(labelled) <= set(ids)
    assert page.of("html") == [{"lang": "en"}] and len(page.of("title")) >= 1 and len(page.of("main")) == 1
    assert all(image["alt"].strip() for image in page.of("img"))
    assert all(drawing["role"] == "img" for drawing in page.of("svg"))
    assert all("scope" in cell for cell in page.of("th"))


def check_that_nothing_is_loaded(page, text):
    ids = page.ids()
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form", "audio", "video"), (
            tag
        )
        assert not [name for name in attributes if name.startswith("on")]
        for name in LOADED:
            value = attributes.get(name)
            if value is not None and value.startswith("#"):
                assert value[1:] in ids, value
            elif value is not None:
                assert value.startswith("data:image/png;base64,"), value
        inside = re.findall(r"url\(([^)]*)\)", attributes.get("style", "") + attributes.get("clip-path", ""))
        assert all(target[0] == "#" and target[1:] in ids for target in inside)
    (style,) = re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL)
    assert "@import" not in style and "url(" not in style
    (policy,) = (a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "http" not in policy


def test_the_numbers_of_a_training_are_those_of_its_file(runs, tmp_path):
    page, problems = written(tmp_path / "a.html", runs / "a")
    assert problems == []
    record = json.loads((runs / "a" / "evaluation.json").read_text())
    (rows,) = (rows for caption, rows in page.tables.items() if caption.startswith("Errors in %"))
    assert [row[0][0] for row in rows] == list(record["results"])
    for row, entry in zip(rows, record["results"].values(), strict=True):
        epoch, clean, pgd, count = row[1:5]
        exact = [cell[1] for cell in (clean, pgd, count)]
        assert exact == [[entry["clean_error"]], [entry["pgd_error"]], [entry["examples"]]]
        assert epoch[1] == ([entry["epoch"]] if entry["epoch"] else [])
        share = entry["pgd_error"] / 100
        assert pgd[0] == f"{entry['pgd_error']:.2f} ±\u00a0{100 * math.sqrt(share * (1 - share) / 359):.2f}"
    epochs = [json.loads(line) for line in (runs / "a" / "metrics.jsonl").read_text().splitlines()]
    values = page.tables["Values of every epoch; accuracies are fractions"]
    assert [[value for cell in row for value in cell[1]] for row in values] == [
        [value for value in record.values() if value is not None] for record in epochs
    ]
    said = page.text
    for stated in (
        "PGD-7×2",
        "l∞, ε = 8/255",
        "3.68",
        "1,295 images of digits",
        "perturbations in l2",
        "ab" * 32,
    ):
        assert stated in said, stated
    command = json.loads((runs / "a" / "config.json").read_text())["command"]
    assert f"python -m advtf.main {command}".strip() in said
    classes = page.tables["Classes of the first test images, for the last epoch at ε = 8/255"]
    assert [[value for cell in row for value in cell[1]] for row in classes][2] == [3, 2, 2, 3]
    (image,) = page.of("img")
    assert image["alt"].startswith("The first 6 test images, clean and attacked. ")


def test_the_numbers_of_an_evaluation_are_those_of_its_file(runs, tmp_path):
    page, _ = written(tmp_path / "c.html", runs / "c")
    record = json.loads((runs / "c" / "evaluation.json").read_text())
    (rows,) = (rows for caption, rows in page.tables.items() if caption.startswith("Errors in %"))
    shown = {row[0][0]: [cell[1] for cell in row[1:]] for row in rows}
    expected = {"no attack": record["clean"], "worst case": record["worst_case"]}
    expected |= {"PGD": record["attacks"]["pgd"], "AutoAttack": record["attacks"]["autoattack"]}
    for name, entry in expected.items():
        loss = [] if entry["mean_loss"] is None else [entry["mean_loss"]]
        assert shown[name][:2] == [[entry["error"]], loss]
    assert shown["PGD"][2:] == [[600 / 200], [1.25]] and "broke 130 of 190" in page.text
    curve = page.tables["Accuracy in % in the worst case over the attacks"]
    assert [tuple(value for cell in row for value in cell[1]) for row in curve] == [
        (point["epsilon"], point["robust_accuracy"]) for point in record["robust_accuracy_by_epsilon"]
    ]
    assert f"Warning: {WARNING}" in page.text
    assert "radii above 16/255" in page.text  # the largest of the grid was measured


def test_a_study_has_its_figure_and_its_numbers(runs, tmp_path):
    page, _ = written(tmp_path / "d.html", runs / "d")
    assert page.tables["Results of hessian"] == [[("epsilon", []), ("0.25", [0.25])]]
    rows = page.tables["Results of hessian: models"]
    assert rows[0] == [("values", []), ("44.13, 3.5", [44.127, 3.5]), ("44.13, 3.5", [44.127, 3.5])]
    assert "Warning: this study is not finished" in page.text and len(page.of("img")) == 1
    assert "--out_dir=" in page.text and "--resume" in page.text


def test_several_folders_are_compared(runs, tmp_path):
    page, problems = written(tmp_path / "all.html", *(runs / name for name in "abcd"))
    assert problems == []
    (rows,) = (
        rows for caption, rows in page.tables.items() if caption == "Errors in %, each under its own attack"
    )
    assert [row[0][0] for row in rows] == [
        *["a training"] * 3,
        *["b training"] * 3,
        "c evaluation",
        "d analysis",
    ]
    assert [row[3][1] for row in rows] == [[65.18105849582172], [61.5], [60.44568245125348]] * 2 + [
        [77.25],
        [],
    ]
    assert rows[4][5][0] == "chosen on the test images" and rows[6][5][0] == "1 warning"
    assert [text for level, text in page.headings if level == 2] == ["Overview", *"abcd"]
    drawings = len(page.of("svg"))
    assert drawings == 1 + 2 + 2 + 1  # both runs in one figure; two of each training; accuracy by ε
    assert "best was chosen on the test images, so its errors are too small" in page.text


def test_a_comparison_leaves_out_the_curves_of_a_damaged_run(runs, tmp_path):
    damaged_run = training(tmp_path / "x", content=results())
    damaged_run.metrics.write_text("rubbish\n{}\n")
    page, problems = written(tmp_path / "page.html", runs / "a", runs / "b", damaged_run.path)
    assert len(problems) == 1 and page.text.count("Warning: every line of a metrics file") == 1
    legends = [text for text in ("a", "b", "x") if f">{text}</text>" in (tmp_path / "page.html").read_text()]
    assert legends == ["a", "b"]


def test_equal_files_give_equal_pages(runs, tmp_path):
    for name in ("first", "second"):
        written(tmp_path / f"{name}.html", runs / "a", runs / "c")
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()


# Text from files


def test_text_from_files_is_escaped(tmp_path):
    content = found([HOSTILE])
    content["attacks"][HOSTILE] = content["attacks"].pop("pgd")
    content |= {"model": HOSTILE, "dataset": HOSTILE}
    hostile = tmp_path / HOSTILE.replace("/", "\u2215")
    evaluation(hostile, content)
    config = json.loads((hostile / "config.json").read_text())
    config["command"] = f"--model='{HOSTILE}'"
    config["versions"][HOSTILE] = "\x1b[31m\u202e\x00"
    write_json(hostile / "config.json", config)
    run = training(tmp_path / "<b>bold", content=results(), recorded=0)
    record = json.loads(run.results.read_text())
    record["results"][HOSTILE] = record["results"].pop("ensemble")
    write_json(run.results, record)
    page, _ = written(tmp_path / "page.html", hostile, run.path)
    assert page.text.count(HOSTILE) >= 6 and not page.of("b")[2:]
    assert not re.search("[\x00\x1b\u202e]", page.text)
    assert hostile.name in [text for _, text in page.headings]


def test_a_name_that_is_no_utf8_is_written(tmp_path):
    run = training(tmp_path / "run\udcff", recorded=1)
    page, _ = written(tmp_path / "page.html", run.path)
    assert page.headings[0] == (1, "run\ufffd")


# What is not finished, and what is damaged


def test_what_is_not_finished_is_told_with_the_command_that_continues(tmp_path):
    for run in (training(tmp_path / "t"), evaluation(tmp_path / "e")):
        page, problems = written(tmp_path / "page.html", run.path)
        assert problems == [] and f"advtf.{run.command} --out_dir={run.path} --resume" in page.text
    page, _ = written(tmp_path / "page.html", tmp_path / "t")
    assert "Epochs recorded: 3 of 4." in page.text and len(page.of("svg")) == 2
    page, _ = written(tmp_path / "page.html", training(tmp_path / "empty", recorded=0).path)
    assert "Epochs recorded: 0 of 4." in page.text and "no epoch is recorded" in page.text


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("evaluation.json", b"{"),
        ("evaluation.json", b"[]"),
        ("evaluation.json", b"{}"),
        ("evaluation.json", b'{"results": 3}'),
        ("metrics.jsonl", b"rubbish\n{}\n"),
        ("metrics.jsonl", b'{"epoch": 1}\n'),
        ("examples.npz", b"PK"),
        ("figures/adversarial_examples.png", b"\x89PNG"),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_shown(runs, tmp_path, name, damage):
    shutil.copytree(runs / "a", tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(damage)
    page, problems = written(tmp_path / "page.html", tmp_path / "run")
    assert len(problems) == 1 and name in problems[0]
    if name == "evaluation.json":
        assert "must be the results that the run has written. Received: " in problems[0]
        assert problems[0].endswith("remove it and continue the run with --resume, which writes it anew.")
        assert "Errors" in [text for _, text in page.headings]
    assert "How to repeat" in [text for _, text in page.headings]


def test_an_evaluation_without_results_is_damaged(tmp_path):
    """As a training is: an object without them was taken for one with nothing to tell."""
    run = evaluation(tmp_path / "e", content={})
    page, problems = written(tmp_path / "page.html", run.path)
    assert len(problems) == 1 and "Received: JSON without an entry 'attacks'." in problems[0]
    assert problems[0] in " ".join(page.text.split())


@pytest.mark.parametrize(
    "values", [("x", float("inf")), pytest.param(VALUES, marks=pytest.mark.slow)], ids=["some", "all"]
)
@pytest.mark.parametrize(("make", "content"), [(training, results()), (evaluation, found([WARNING]))])
def test_whatever_is_damaged_there_is_a_page(tmp_path, make, content, values):
    """Every entry of the JSON files is replaced by values of other types, one after another."""
    content = copy.deepcopy(content)
    content["robust_accuracy_by_epsilon"] = content.get("robust_accuracy_by_epsilon", [])[:2]  # no figure
    run = make(tmp_path / "run", content=content)
    (run.path / "metrics.jsonl").unlink(missing_ok=True)
    count = 0
    for file, whole in ((run.results, content), (run.config, json.loads(run.config.read_text()))):
        for path, _, record in damaged(whole, values):
            if file == run.config and (path[:1] in ((), ("kind",), ("versions",)) or len(path) > 1):
                continue  # no longer a run of this program, or one setting of many
            file.write_text(json.dumps(record))
            write([run], tmp_path / "page.html")
            Page((tmp_path / "page.html").read_text())
            count += 1
        file.write_text(json.dumps(whole))
    assert count > 50


# Model cards


@pytest.fixture
def exported(tmp_path):
    """An export of a training that is beside it."""
    run = training(tmp_path / "run", content=results())
    folder = tmp_path / "exports" / "last"
    fake_export(folder, epochs=4, eps=8 / 255)
    entries = read_manifest(folder) | {"run": run.identity().record(folder), "dataset": "digits"}
    entries |= {"network": "lenet", "test": results()["results"]["last"], "images": results()["images"]}
    write_manifest(folder, entries)
    return folder


def test_a_model_card_tells_the_use_and_the_limits(exported, tmp_path):
    page, problems = written(tmp_path / "card.html", exported)
    assert problems == [] and page.headings[0] == (1, "exports/last")
    for stated in (
        "float32 images of 8×8×1, pixels in [0, 1]",
        "logits of 10 classes",
        "Trained on 1,295 images of digits",
        "65.18",
        "attacks other than PGD-10; perturbations in l2; radii above 8/255",
        f"advtf.load_classifier('{exported}')",
    ):
        assert stated in page.text, stated
    assert len(page.of("svg")) == 2  # the run is where the manifest leads


def test_evaluations_of_other_weights_do_not_count_for_a_card(exported, tmp_path):
    own = evaluation(tmp_path / "own", found([WARNING]), weights_digest(exported))
    other = evaluation(tmp_path / "other", found([WARNING]), "0" * 64)
    limits = (
        "Measured: PGD, AutoAttack, l∞, ε = 8/255, on 200 test images; the standard errors are at most 3.20"
    )
    page, _ = written(tmp_path / "card.html", exported, own.path)
    assert page.text.count(limits) == 2 and f"Warning: {WARNING}" in page.text
    page, _ = written(tmp_path / "card.html", exported, other.path)
    assert page.text.count(limits) == 1


def test_the_limits_of_a_card_are_those_of_all_its_evaluations(exported, tmp_path):
    digest, others = weights_digest(exported), found()
    others |= {"norm": "l2", "epsilon": 0.5, "attacks": {"fab": others["attacks"]["pgd"]}}
    others["robust_accuracy_by_epsilon"] = [{"epsilon": 0.5, "robust_accuracy": 50.0}]
    first, second = evaluation(tmp_path / "1", found(), digest), evaluation(tmp_path / "2", others, digest)
    page, _ = written(tmp_path / "card.html", exported, first.path, second.path)
    left = (
        "attacks other than PGD-10, PGD, AutoAttack, FAB; radii above 16/255 in l∞ or 0.5 in l2; data other"
    )
    assert f"Not measured: {left} than the test images of digits." in page.text


def test_an_export_without_its_run_still_has_a_card(exported, tmp_path):
    shutil.rmtree(tmp_path / "run")
    page, problems = written(tmp_path / "card.html", exported)
    assert (
        problems == []
        and page.of("svg") == []
        and "its directory is not where the manifest leads" in page.text
    )
    bare = fake_export(tmp_path / "bare")
    page, problems = written(tmp_path / "card.html", bare)
    assert problems == [] and "Not measured: any error under attack" in page.text


def test_the_plan_is_the_one_that_the_command_prints(exported, tmp_path):
    page, _ = written(tmp_path / "card.html", exported)
    plan = describe(TrainConfig.of({"epochs": 4, "eps": 8 / 255}), ())
    assert all(line in page.text for name, line in plan.items() if name != "given")


CONFIGS = [
    {},
    {"dataset": "cifar10", "eps": 8 / 255, "eps_sched": "cosine", "image_size": 16},
    {"dataset": "cifar10", "model": "preact_resnet18", "objective": "advlc", "advlc_fraction": 0.3},
    {"norm": "l2", "eps": 1 / 3, "periods": (), "epochs": 7, "averaging": "swa", "lr_sched": "constant"},
    {"objective": "standard", "adversary": "none"},
]


@pytest.mark.parametrize("given", CONFIGS, ids=lambda given: ",".join(given) or "none")
def test_the_flagfile_on_the_page_gives_the_same_settings(tmp_path, given):
    run = training(tmp_path / "run", recorded=0, **given)
    config = run.stored(TrainConfig, "config")
    page, _ = written(tmp_path / "page.html", run.path)
    text = page.text.partition("for --flagfile=FILE:")[2].partition("Written by")[0]
    flags = dict(line.removeprefix("--").split("=", 1) for line in text.splitlines() if line.startswith("--"))
    assert TrainConfig.of(flags) == config and len(flags) > 30


# Where the page goes


def planned(*run, out=None):
    return settings.plan(ReportOptions.of({"run": run, "out": out}))[1]


def test_where_the_page_goes(runs, exported, tmp_path):
    assert planned(str(runs / "a")) == runs / "a" / "report.html"
    assert planned(str(exported)) == exported / "model_card.html"
    assert planned(str(exported), str(runs / "c")) == exported / "model_card.html"
    assert planned(str(runs / "a"), str(runs / "b"), out=str(tmp_path / "x.html")) == tmp_path / "x.html"
