"""Planning an analysis, running its studies, and what is kept when one of them fails or is killed."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.analysis import IMAGES, LABELS, fake_classifier, fake_export, read, register
from helpers.run import tree

from advtf.errors import UsageError
from advtf.studies import run as analysis_run
from advtf.studies.context import StudyContext
from advtf.studies.run import AnalysisDirectory, finished_files, plan, run_analysis
from advtf.studies.settings import AnalyzeOptions, AnalyzeSettings
from advtf.training.directory import TrainingDirectory

TRAINED = {"dataset": "mnist", "eps": 0.3, "attack_steps": 33, "random_start": "none"}


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake_export(tmp_path / "saved_models" / "r" / "last", **TRAINED)
    fake_export(tmp_path / "saved_models" / "r" / "period1", **{**TRAINED, "eps": 0.1})
    fake_export(tmp_path / "saved_models" / "foreign" / "last")
    return tmp_path


LAST, PERIOD, FOREIGN = (f"saved_models/{name}" for name in ("r/last", "r/period1", "foreign/last"))


def settings_of(study="hessian", model=LAST, **given):
    return plan({"study": study, "model": model, **given}, {})[1]


# Plans


def test_what_is_not_given_comes_from_the_training_of_the_first_model(inside):
    run, settings, _ = plan({"study": "hessian,density", "model": f"{LAST},{PERIOD}"}, {})
    assert settings.study == ("hessian", "density") and settings.model == (LAST, PERIOD)
    assert (str(run.path), run.kind) == ("runs/analyze-r-last", "analysis")
    assert (settings.dataset, settings.norm, settings.eps) == ("mnist", "linf", 0.3)
    assert (settings.attack_steps, settings.random_start) == (33, "none")
    assert settings.relative_step == pytest.approx(0.01 / 0.3)
    assert settings_of(model=PERIOD).eps == 0.1


def test_another_attack_is_that_of_the_presets(inside):
    other = settings_of(norm="l2")
    assert (other.eps, other.attack_steps, other.random_start) == (2.0, 10, "uniform")
    other = settings_of(eps="0.2")
    assert (other.eps, other.attack_steps, other.attack_step_size) == (0.2, 30, "0.01")
    other = settings_of(dataset="cifar10")
    assert (other.eps, other.attack_steps, other.attack_step_size) == (8 / 255, 10, "0.25eps")
    assert settings_of(attack_steps="5").attack_steps == 5 and settings_of(attack_steps="5").eps == 0.3
    assert settings_of(model=FOREIGN, dataset="mnist").eps == 0.4


def test_the_order_of_the_images_is_that_of_the_training(inside):
    assert settings_of().order == "stored" and settings_of(order="published").order == "published"
    fake_export(inside / "saved_models" / "ordered" / "last", **TRAINED, order="published")
    ordered = "saved_models/ordered/last"
    assert settings_of(model=ordered).order == "published"
    assert settings_of(model=ordered, dataset="cifar100").order == "stored"
    with pytest.raises(UsageError, match=r"digits, mnist, cifar10\. Received: dataset=cifar100"):
        settings_of(dataset="cifar100", order="published")


def test_some_studies_need_no_model(inside):
    run, settings, _ = plan({"study": "theory"}, {})
    assert str(run.path) == "runs/analyze-theory" and settings.dataset is None
    folder = inside / "trained"
    folder.mkdir()
    np.savez(folder / "dynamics.npz", step=np.arange(3))
    assert plan({"study": "dynamics", "run_dirs": str(folder)}, {})[1].run_dirs == (str(folder),)


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({}, {}, "study must be given. Received: no --study. Name one or more of hessian"),
        ({"study": "hesian"}, {}, "Did you mean 'hessian'"),
        ({"study": "hessian,,density"}, {}, "study must be names with commas"),
        ({"study": "hessian,hessian"}, {}, "each once"),
        ({"study": "hessian"}, {}, "study=hessian needs at least one model. Received: no --model"),
        ({"study": "connectivity", "model": LAST}, {}, "needs at least 2 models, with commas between"),
        ({"study": "hessian,surface", "model": LAST, "surface": "towards"}, {}, "needs 3 models"),
        ({"study": "surface", "model": LAST, "surface_points": 20}, {}, "must be odd.* Use 21"),
        ({"study": "similarity", "model": LAST, "eps": 0}, {}, "similarity needs perturbations"),
        ({"study": "connectivity", "model": f"{LAST},{PERIOD}", "split": "test"}, {}, "must be train"),
        ({"study": "dynamics"}, {}, "study=dynamics needs run_dirs or model"),
        ({"study": "dynamics", "run_dirs": "saved_models"}, {}, "saved_models, which does not"),
        (
            {"study": "hessian", "model": LAST, "basis_size": 20},
            {},
            "basis_size must be at least 22",
        ),
        ({"study": "hessian", "model": LAST, "max_products": 9}, {}, "max_products must be at least 20"),
        (
            {"study": "hessian", "model": LAST, "eigen_method": "power", "eigen_end": "both"},
            {},
            "Use --eigen_method=lanczos",
        ),
        (
            {"study": "hessian", "model": "saved_models/r/lst"},
            {},
            "there: saved_models/r/last, saved_models/r/period1. Did you mean 'last'",
        ),
        ({"study": "hessian", "model": f"{LAST},nowhere"}, {}, "Received: model=nowhere"),
        ({"study": "hessian", "model": FOREIGN}, {}, "dataset must be given, as saved_models/foreign/last"),
        ({"study": "hessian", "model": LAST, "dataset": "mnits"}, {}, "Did you mean 'mnist'"),
        ({"study": "hessian", "model": LAST, "eps": 8}, {}, "8 probably means 8/255"),
        ({"study": "hessian", "model": LAST, "attack_step_size": "0.9"}, {}, "at most 2.5 times ε"),
        ({"study": "similarity", "model": LAST, "offsets": "0,2,1"}, {}, "strictly increasing"),
        ({"study": "hessian", "model": LAST}, {"resume": True}, "requires a run"),
        ({"study": "hessian", "model": LAST}, {"resume": True, "overwrite": True}, "exclude each other"),
        ({"study": "hessian", "model": LAST}, {"out_dir": "saved_models"}, "holds other files"),
        (
            {"study": "hessian", "model": LAST},
            {"out_dir": "t", "overwrite": True},
            "must not hold a training",
        ),
    ],
)
def test_bad_plans_are_refused_and_write_nothing(inside, settings, options, message):
    TrainingDirectory(inside / "t").path.mkdir()
    record = {"versions": {"advtf": "0"}, "config": {}, "options": {}}
    (inside / "t" / "config.json").write_text(json.dumps(record))
    before = tree(inside)
    with pytest.raises(UsageError, match=message):
        plan(settings, options)
    assert tree(inside) == before


def test_the_plan_in_a_few_lines(inside):
    run, settings, _ = plan({"study": "hessian,density", "model": LAST, "num_examples": 1500}, {})
    lines = analysis_run.describe(settings, run).splitlines()
    assert [line.split()[0] for line in lines] == ["study", "model", "data", "attack", "output"]
    assert "mnist, at most 1,500 train images, the first ones" in lines[2]
    assert "ε 0.3, 33 steps of 0.01" in lines[3]
    assert run.resume_command == ("python -m advtf.analyze --out_dir=runs/analyze-r-last --resume")


# Resuming


@pytest.fixture
def two(monkeypatch):
    return register(monkeypatch, "first"), register(monkeypatch, "second")


def completed(**given):
    return analysis_run.completed(AnalyzeSettings(**{"study": ("first", "second"), **given}), {})


def context_of(classifiers=None, images=(IMAGES, LABELS), said=None, **given):
    say = (lambda line: None) if said is None else said.append
    classifiers = [fake_classifier()] if classifiers is None else classifiers
    return StudyContext(
        completed(**given), classifiers, *images, None, None, Path(), say, {"classifiers": ["a"]}
    )


def go(folder, context=None, resume=None, studies=None, **given):
    """Runs the studies in a folder, where the analysis may have begun."""
    run, context = AnalysisDirectory(folder), context or context_of(**given)
    resume = run.state() != "new" if resume is None else resume
    context = dataclasses.replace(context, folder=folder)
    return run_analysis(run, context, AnalyzeOptions(), resume=resume, studies=studies)


def test_only_new_studies_may_bring_settings(two):
    stored = completed(eigenvalues=5)
    more = analysis_run.extended(stored, {"study": ("second", "density"), "density_probes": 9, "seed": 0})
    assert more == dataclasses.replace(stored, study=("first", "second", "density"), density_probes=9)
    assert analysis_run.extended(stored, {}) == stored
    for given, message in (
        ({"seed": 1}, "analysis: seed=0. Received: seed=1"),
        ({"study": ("hessian",), "density_probes": 9}, "density_probes=4. Received: density_probes=9"),
    ):
        with pytest.raises(UsageError, match=message):
            analysis_run.extended(stored, given)
    hessian = dataclasses.replace(stored, study=("hessian",))
    with pytest.raises(UsageError, match="max_products=400"):  # similarity reads it, too
        analysis_run.extended(hessian, {"study": ("similarity",), "max_products": 9})


def test_other_weights_or_images_are_not_continued(two, tmp_path):
    run = AnalysisDirectory(tmp_path)
    go(tmp_path, studies=[])
    assert run.state() == "unfinished" and run.stored_settings() == completed()
    before = tree(tmp_path)
    go(tmp_path, studies=[])
    assert tree(tmp_path) == before
    for other in (
        context_of(images=(IMAGES, LABELS[::-1])),
        context_of([fake_classifier(weights=(1.0, 2.5))]),
    ):
        with pytest.raises(UsageError, match="must continue with the classifiers and images"):
            go(tmp_path, other)
    assert tree(tmp_path) == before


def test_an_analysis_of_the_first_version_continues(two, tmp_path):
    run = AnalysisDirectory(tmp_path)
    go(tmp_path, studies=[])
    record = json.loads(run.config.read_text())
    parts = (fake_classifier().parameters.value(), IMAGES, LABELS)
    record["identity"] = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    run.config.write_text(json.dumps(record))
    assert go(tmp_path).finished
    with pytest.raises(UsageError, match="must continue with the classifiers and images"):
        go(tmp_path, context_of(images=(IMAGES, LABELS[::-1])))


def test_adding_a_study_unfinishes_the_analysis(two, tmp_path):
    run = AnalysisDirectory(tmp_path)
    assert go(tmp_path).finished and run.is_finished(completed())
    more = completed(study=("first", "second", "theory"))
    assert not run.is_finished(more)
    assert not go(tmp_path, study=more.study, studies=["first"]).finished
    assert run.state() == "unfinished" and run.stored_settings() == more


# Running


def test_studies_get_what_they_need_and_their_results_are_listed(two, tmp_path):
    said = []
    outcome = go(tmp_path, said=said, eps="0.1", attack_step_size="0.02", seed=4)
    first = two[0].contexts[0]
    assert first.folder == tmp_path / "first" and first.x is IMAGES and first.y is LABELS
    assert (first.epsilon, first.settings.seed, first.classifiers[0].name) == (0.1, 4, "a")
    assert outcome.failures == {} and outcome.finished
    for name in ("first", "second"):
        files = [tmp_path / name / f"{name}.json", tmp_path / name / f"{name}.npz"]
        assert outcome.files[name] == files and finished_files(tmp_path / name) == files
        assert read(files[0])["mean"] == pytest.approx(IMAGES.mean())
        assert not (tmp_path / name / "state").exists()
    assert [line.split()[0] for line in said] == ["first", "mean", "first", "second", "mean", "second"]


def test_a_killed_study_continues_from_its_state_and_finished_ones_are_kept(two, tmp_path):
    two[1].fail = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path)
    before = tree(tmp_path / "first")
    said = []
    outcome = go(tmp_path, said=said)
    assert (len(two[0].contexts), two[1].found) == (1, [None, "call 1"])
    assert "first: done before" in said[0] and tree(tmp_path / "first") == before
    assert list(outcome.files) == ["first", "second"] and not (tmp_path / "second" / "state").exists()
    go(tmp_path)
    assert len(two[1].contexts) == 2


def test_a_study_whose_files_are_gone_is_repeated(two, tmp_path):
    go(tmp_path)
    (tmp_path / "second" / "second.npz").unlink()
    go(tmp_path)
    assert (len(two[0].contexts), len(two[1].contexts)) == (1, 2)


def test_one_that_fails_does_not_lose_the_others(two, tmp_path):
    two[0].fail, said = UsageError("no. Received: x."), []
    outcome = go(tmp_path, said=said)
    assert list(outcome.files) == ["second"] and str(outcome.failures["first"]) == "no. Received: x."
    assert "not done: no. Received: x." in said and finished_files(tmp_path / "first") is None
    assert list(go(tmp_path).files) == ["first", "second"]


def test_the_files_of_all_studies_are_listed_when_the_last_is_done(two, tmp_path):
    run = AnalysisDirectory(tmp_path)
    two[1].fail = UsageError("no")
    assert not go(tmp_path).finished and not run.results.exists()
    assert go(tmp_path).finished
    record = read(tmp_path / "analysis.json")
    assert record["classifiers"] == ["a"] and "advtf" in record["versions"]
    assert record["studies"]["second"] == ["second/second.json", "second/second.npz"]
