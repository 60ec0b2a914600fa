"""`python -m advtf.analyze` and `advtf.analyze`: files, a kill and what follows, mistakes."""

from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import command
from helpers.analysis import read, register
from helpers.evaluate import EPSILON, EXPORT, digits, export_digits
from helpers.run import children_seconds, tree

import advtf
from advtf import analyze
from advtf.attacks.losses import cross_entropy
from advtf.classifiers.export import export_classifier
from advtf.data import sets as data
from advtf.errors import UsageError
from advtf.studies import run as analysis_run
from advtf.studies.run import AnalysisDirectory
from advtf.training.settings import TrainConfig

COMMAND = "advtf.analyze"
FEW = {"attack_steps": 3, "attack_step_size": "eps/2"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with one export."""
    return export_digits(tmp_path_factory.mktemp("analyze"))


@pytest.fixture
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def two(monkeypatch):
    return register(monkeypatch, "first", models=1), register(monkeypatch, "second", models=1)


def plan(options=None, **settings):
    return analysis_run.plan({"model": EXPORT, **settings}, options or {})


# The command


def test_the_images_are_those_of_the_training(inside, tmp_path, two):
    analyze._run(*plan({"out_dir": str(tmp_path / "out")}, study="first", num_examples=100))
    context = two[0].contexts[0]
    images = data.load("digits", val_fraction=0.1)  # as the training had held it out
    np.testing.assert_array_equal(context.x, images.train.images[:100])
    np.testing.assert_array_equal(context.y, images.train.labels[:100])
    np.testing.assert_array_equal(context.x_test, images.test.images[:100])
    assert (context.epsilon, context.settings.attack_steps) == (EPSILON, 7)
    (classifier,) = context.classifiers
    model, x, _ = digits()
    np.testing.assert_allclose(classifier.logits_fn(x), model(x), atol=1e-5)
    assert classifier.config["eps"] == EPSILON and classifier.name == "digits-run/last"
    record = read(tmp_path / "out" / "first" / "first.json")
    expected = {"classifiers": [EXPORT], "dataset": "digits", "split": "train", "examples": 100}
    assert expected.items() <= record.items() and record["test_examples"] == 100
    analyze._run(*plan({"out_dir": str(tmp_path / "test")}, study="first", num_examples=9999, split="test"))
    assert len(two[0].contexts[1].x) == len(images.test) == 359


def test_the_images_are_those_of_a_training_on_a_subset(inside, tmp_path, two):
    model, x, _ = digits()
    settings = TrainConfig.of(dict(dataset="digits", width=2, activation="softplus", train_examples=70))
    export_classifier(model, tmp_path / "few", metadata={"config": settings.to_json()}, sample=x[:4])
    given = {"model": str(tmp_path / "few"), "study": "first"}
    analyze._run(*analysis_run.plan(given, {"out_dir": str(tmp_path / "out")}))
    images = data.load("digits", val_fraction=0.1, train_examples=70).train
    np.testing.assert_array_equal(two[0].contexts[0].x, images.images)
    assert read(tmp_path / "out" / "first" / "first.json")["images"] == images.record()


def test_a_killed_command_continues_with_what_is_left(inside, tmp_path, two, capsys):
    out = {"out_dir": str(tmp_path / "out")}
    two[1].fail = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        analyze._run(*plan(out, study="first,second", num_examples=50, **FEW))
    run = AnalysisDirectory(tmp_path / "out")
    assert run.state() == "unfinished"
    with pytest.raises(UsageError, match="Add --overwrite to replace it or --resume"):
        plan(out, study="first,second")
    with pytest.raises(UsageError, match=r"num_examples=50. Received: num_examples=51"):
        analysis_run.plan({"num_examples": 51}, {**out, "resume": True})
    analyze._run(*analysis_run.plan({}, {**out, "resume": True}))
    assert (len(two[0].contexts), two[1].found) == (1, [None, "call 1"])
    assert run.state() == "finished"
    written = capsys.readouterr().out.split("Wrote ")[1].split()
    assert written == [str(run.results), *(str(run.path / p) for p in (
        "first/first.json", "first/first.npz", "second/second.json", "second/second.npz"
    ))]  # fmt: skip
    assert two[1].contexts[1].settings == two[1].contexts[0].settings
    np.testing.assert_array_equal(two[1].contexts[1].x, two[1].contexts[0].x)


@pytest.mark.slow
def test_studies_are_added_to_a_finished_analysis(inside, tmp_path, two):
    out = {"out_dir": str(tmp_path / "out")}
    analyze._run(*plan(out, study="second", num_examples=50))
    analyze._run(*analysis_run.plan({"study": ("first",)}, {**out, "resume": True}))
    assert (len(two[0].contexts), len(two[1].contexts)) == (1, 1)
    assert list(read(tmp_path / "out" / "analysis.json")["studies"]) == ["second", "first"]


def test_overwriting_starts_afresh(inside, tmp_path, two):
    out = {"out_dir": str(tmp_path / "out")}
    analyze._run(*plan(out, study="first,second", num_examples=50))
    (tmp_path / "out" / "notes.txt").write_text("mine")
    analyze._run(*plan({**out, "overwrite": True}, study="second", num_examples=40))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {".lock", "config.json", "analysis.json", "second", "notes.txt"}
    assert len(two[1].contexts) == 2


def test_a_study_that_fails_ends_in_its_error_and_can_be_continued(inside, tmp_path, two, capsys):
    out = {"out_dir": str(tmp_path / "out")}
    two[0].fail = UsageError("steps must be few. Received: steps=9.")
    with pytest.raises(UsageError, match=r"^first: steps must be few. Received: steps=9.$"):
        analyze._run(*plan(out, study="first,second", num_examples=50))
    printed = capsys.readouterr().out
    assert "second.json" in printed.split("Wrote ")[1] and "first.json" not in printed
    assert AnalysisDirectory(tmp_path / "out").state() == "unfinished"
    analyze._run(*analysis_run.plan({}, {**out, "resume": True}))
    assert (len(two[0].contexts), len(two[1].contexts)) == (2, 1)


def test_data_and_model_must_agree(inside, tmp_path, two):
    image = keras.Input((8, 8, 1))
    other = keras.Model(image, keras.layers.Dense(12)(keras.layers.Flatten()(image)))
    export_classifier(other, tmp_path / "other", sample=digits()[1][:4])
    for models in (f"{tmp_path}/other", f"{EXPORT},{tmp_path}/other"):
        chosen = plan({"out_dir": str(tmp_path / "out")}, study="first", model=models, dataset="digits")
        with pytest.raises(UsageError, match=f"10 classes of digits. Received: {tmp_path}/other with 12"):
            analyze._run(*chosen)
    assert not (tmp_path / "out").exists() and not two[0].contexts


def test_the_command(folder, tmp_path):
    few = ["--num_examples=60", "--density_probes=2", "--density_steps=8", "--attack_steps=2"]
    given = [f"--model={EXPORT}", "--study=density", f"--out_dir={tmp_path}/out", "--attack_step_size=eps/2"]
    code, out, error = command.run(COMMAND, folder, *given, *few)
    assert (code, error) == (0, "")
    plan = [line.split()[0] for line in out.splitlines()[:6]]
    assert plan == ["study", "model", "data", "attack", "output", "device"]
    for path in out.split("Wrote ")[1].split():
        assert (folder / path).exists()
    record = read(tmp_path / "out" / "density" / "density.json")
    assert (record["settings"]["eps"], record["settings"]["density_steps"]) == (EPSILON, 8)
    assert record["command"].startswith(f"--model={EXPORT}")
    before = tree(tmp_path)
    code, _, error = command.run(COMMAND, folder, *given, *few)
    assert code == 2 and error.count("\n") == 1 and "a run (finished)" in error
    code, out, _ = command.run(COMMAND, folder, f"--out_dir={tmp_path}/out", "--resume")
    assert code == 0 and "is finished" in out
    assert tree(tmp_path) == before


def test_help_and_mistakes_are_answered_at_once_and_without_tensorflow(tmp_path):
    poison = command.poisoned(tmp_path / "poison")
    before = children_seconds()
    code, out, _ = command.run(COMMAND, tmp_path, "--help", first=[poison])
    assert children_seconds() - before < 1
    assert code == 0 and "--eigen_method" in out
    for arguments, message in (
        (["--study=hesian"], "Did you mean 'hessian'"),
        (["--study=hessian", "--model=nowhere/x"], "nowhere/x"),
        (["--study=hessian", "--modle=x"], "modle"),
        (["--study=surface,hessian"], "study=surface needs at least one model"),
    ):
        code, _, error = command.run(COMMAND, tmp_path, *arguments, first=[poison])
        assert code == 2 and error.count("\n") == 1 and message in error
    assert list(tmp_path.iterdir()) == [poison]


# The library call


def test_every_public_name_is_there():
    assert all(getattr(advtf, name) is not None for name in advtf.__all__)
    assert {"analyze", "HessianOperator", "lanczos", "as_classifier", "as_subject"} <= set(dir(advtf))


def test_the_library_call_returns_the_numbers(two):
    model, x, y = digits()
    found = advtf.analyze(model, x, y, study="first", epsilon=0.1, seed=3, **FEW)
    assert found["mean"] == pytest.approx(x.mean()) and found["study"] == "first"
    assert (found["settings"]["eps"], found["settings"]["seed"]) == (0.1, 3)
    assert (found["classifiers"], found["examples"]) == ([model.name], 64)
    context = two[0].contexts[0]
    assert not context.folder.exists()
    losses = [cross_entropy(y, logits(x)).numpy() for logits in (model, context.classifiers[0].logits_fn)]
    np.testing.assert_allclose(*losses, rtol=1e-5, atol=1e-6)
    advtf.analyze(model, np.round(255 * x).astype(np.uint8), y, study="first", epsilon=0.1)
    assert two[0].contexts[1].x.dtype == np.float32 and two[0].contexts[1].x.max() <= 1


def test_an_export_tells_the_library_call_its_attack(folder, two):
    _, x, y = digits()
    settings = advtf.analyze(folder / EXPORT, x, y, study="first")["settings"]
    assert (settings["eps"], settings["attack_steps"], settings["norm"]) == (EPSILON, 7, "linf")


def test_the_same_call_continues_in_its_folder_and_others_may_be_added(tmp_path, two):
    model, x, y = digits()
    call = {"x": x, "y": y, "epsilon": 0.1, "out_dir": tmp_path / "out"}
    two[0].fail = RuntimeError("killed")
    with pytest.raises(RuntimeError):
        advtf.analyze(model, study="first", **call)
    found = advtf.analyze(model, study="first", **call)
    assert two[0].found == [None, "call 1"]
    assert advtf.analyze(model, study="first", **call) == found and len(two[0].contexts) == 2
    advtf.analyze(model, study="second", **call)
    assert list(read(tmp_path / "out" / "analysis.json")["studies"]) == ["first", "second"]
    before = tree(tmp_path)
    for change, message in (
        ({"epsilon": 0.2}, r"eps=0.1. Received: eps=0.2"),
        ({"x": x[::-1].copy()}, "must continue with the classifiers and images"),
    ):
        with pytest.raises(UsageError, match=message):
            advtf.analyze(model, study="first", **{**call, **change})
    assert {k: v for k, v in tree(tmp_path).items() if ".lock" not in k} == {
        k: v for k, v in before.items() if ".lock" not in k
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"study": "hesian"}, "Did you mean 'hessian'"),
        ({"epsilon": None}, "epsilon must be given, as"),
        ({"epsilon": 8}, "8 probably means 8/255"),
        ({"study": "connectivity"}, "x_test and y_test must be given for study=connectivity"),
        ({"study": "surface", "surface": "towards"}, "needs 3 models"),
        ({"classifier": None, "study": "hessian"}, "needs at least one model"),
        ({"x": None, "y": None}, "x and y must be given for study=first"),
        ({"y": None}, "x and y must be given together"),
        ({"x": np.zeros((4, 9, 9, 1), np.float32)}, "images must have the 8×8×1 pixels"),
        ({"y": np.array([0, 1, 2, 12])}, r"labels must be in \[0, 10\)"),
        ({"classifier": 3}, "must be a Keras model"),
        ({"num_examples": 3}, "num_examples is a setting of the command"),
        ({"out_dir": Path(__file__).parent}, "holds other files"),
    ],
)
def test_bad_calls(two, changes, message):
    model, x, _ = digits()
    call = {"classifier": model, "x": x[:4], "y": np.array([0, 1, 2, 1]), "study": "first", "epsilon": 0.1}
    with pytest.raises(UsageError, match=message):
        analyze(**{**call, **changes})
    assert not two[0].contexts
