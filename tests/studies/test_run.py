"""Planning an analysis, running its studies, and what is kept when one of them fails or is killed."""

import dataclasses
import json

import numpy as np
import pytest
from helpers.analysis import IMAGES, LABELS, fake_classifier, fake_export, register
from helpers.run import tree

from advtf.errors import UsageError
from advtf.studies import run as analysis_run
from advtf.studies.run import AnalysisDirectory, Material, plan
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
        ({"study": "hessian,,density"}, {}, "study must be studies with commas"),
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
        ({"study": "hessian", "model": "saved_models/r/lst"}, {}, "has last, period1. Did you mean 'last'"),
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


# Material


@pytest.mark.parametrize(
    ("classifiers", "message"),
    [
        (
            [fake_classifier(), fake_classifier("b", classes=5)],
            "a with 8×8×1, 10 classes and b with 8×8×1, 5 classes",
        ),
        ([fake_classifier(), fake_classifier("b", shape=(8, 8, 3))], "one input shape and number of classes"),
        ([fake_classifier(shape=(28, 28, 1))], "the 28×28×1 pixels and channels of a. Received: 8×8×1"),
        ([fake_classifier(shape=(None, None, 3))], r"the \?×\?×3 pixels"),
    ],
)
def test_material_must_fit(classifiers, message):
    with pytest.raises(UsageError, match=message):
        Material(classifiers, IMAGES, LABELS)


def test_free_sizes_fit_all_images():
    assert Material([fake_classifier(shape=(None, None, 1))], IMAGES, LABELS).identity()


def test_the_identity_is_of_weights_images_and_labels():
    identities = {
        Material([fake_classifier()], IMAGES, LABELS).identity(),
        Material([fake_classifier(weights=(1.0, 2.5))], IMAGES, LABELS).identity(),
        Material([fake_classifier()], IMAGES[::-1], LABELS).identity(),
        Material([fake_classifier()], IMAGES, LABELS[::-1]).identity(),
        Material([fake_classifier()], IMAGES, LABELS, IMAGES, LABELS).identity(),
    }
    assert len(identities) == 5
    assert Material([fake_classifier("other name")], IMAGES, LABELS).identity() in identities


# Resuming


@pytest.fixture
def two(monkeypatch):
    return register(monkeypatch, "first"), register(monkeypatch, "second")


def completed(**given):
    return analysis_run.completed(AnalyzeSettings(study=("first", "second"), **given), {})


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
    run, options = AnalysisDirectory(tmp_path), AnalyzeOptions()
    settings, material = completed(), Material([fake_classifier()], IMAGES, LABELS)
    analysis_run.begin(run, settings, options, material, resume=False)
    assert run.state() == "unfinished" and analysis_run.stored_settings(run) == settings
    before = tree(tmp_path)
    analysis_run.begin(run, settings, options, material, resume=True)
    assert tree(tmp_path) == before
    with pytest.raises(UsageError, match="must continue with the classifiers and images"):
        analysis_run.begin(
            run, settings, options, Material([fake_classifier()], IMAGES, LABELS[::-1]), resume=True
        )
    assert tree(tmp_path) == before


def test_adding_a_study_unfinishes_the_analysis(two, tmp_path):
    run, settings, material = AnalysisDirectory(tmp_path), completed(), Material([])
    analysis_run.begin(run, settings, AnalyzeOptions(), material, resume=False)
    run.results.write_text("{}")
    assert analysis_run.is_finished(run, settings)
    more = dataclasses.replace(settings, study=("first", "second", "theory"))
    assert not analysis_run.is_finished(run, more)
    analysis_run.begin(run, more, AnalyzeOptions(), material, resume=True)
    assert run.state() == "unfinished" and analysis_run.stored_settings(run) == more


def test_the_plan_in_a_few_lines(inside):
    run, settings, _ = plan({"study": "hessian,density", "model": LAST, "num_examples": 1500}, {})
    lines = analysis_run.describe(settings, run).splitlines()
    assert [line.split()[0] for line in lines] == ["study", "model", "data", "attack", "output"]
    assert "mnist, first 1,500 train images" in lines[2] and "ε 0.3, 33 steps of 0.01" in lines[3]
    assert run.resume_command == ("python -m advtf.analyze --out_dir=runs/analyze-r-last --resume")
