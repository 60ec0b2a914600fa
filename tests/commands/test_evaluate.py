"""`python -m advtf.evaluate`: plans, files, a kill and what follows, mistakes."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import command
from helpers.attack import norms
from helpers.evaluate import EPSILON, EXPORT, FEW, digits, export_digits
from helpers.run import children_seconds, tree

from advtf.classifiers.export import export_classifier
from advtf.data.sets import load
from advtf.errors import UsageError
from advtf.evaluation import run as evaluation_run
from advtf.figures import evaluation as evaluation_plots
from advtf.storage.cache import ResultCache

COMMAND = "advtf.evaluate"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with one export."""
    return export_digits(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def plan(settings=None, **options):
    return evaluation_run.plan(settings or {}, {"model": EXPORT, **options})


def test_what_is_not_given_comes_from_the_training(inside):
    run, settings, options = plan()
    assert (settings.norm, settings.eps, settings.pgd_steps) == ("linf", EPSILON, 7)
    assert (options.dataset, str(run.path)) == ("digits", "runs/evaluate-digits-run-last")
    _, settings, _ = plan({"norm": "l2"})  # nothing like the training: as in a training with that norm
    assert (settings.eps, settings.pgd_steps) == (0.5, 10)
    _, settings, options = plan(dataset="mnist")
    assert (settings.eps, settings.pgd_steps, settings.pgd_step_size) == (0.4, 50, "0.01")


def trained_with(folder, **settings):
    export = shutil.copytree(EXPORT, folder / "last")
    manifest = json.loads((export / "manifest.json").read_text())
    manifest["config"] |= settings
    (export / "manifest.json").write_text(json.dumps(manifest))
    return export


def test_the_order_of_the_images_is_that_of_the_training(inside, tmp_path):
    export = str(trained_with(tmp_path, order="published"))
    assert (plan()[2].order, plan(model=export)[2].order) == ("stored", "published")
    assert plan(model=export, dataset="cifar10")[2].order == "stored"
    run, settings, options = plan(model=export, dataset="cifar10", order="published", num_examples=9)
    described = evaluation_run.describe(settings, options, run)
    assert "cifar10, first 9 test images in the published order" in described


def test_a_radius_is_one_of_the_norm_of_the_training(inside, tmp_path):
    export = trained_with(tmp_path, norm="l2", eps=2.0)
    _, settings, _ = plan({"eps": "3"}, model=str(export))
    assert (settings.norm, settings.eps) == ("l2", 3.0)
    with pytest.raises(UsageError, match="3 probably means 3/255"):
        plan({"eps": "3", "norm": "linf"}, model=str(export))


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"attacks": ("sqare",)}, {}, "Did you mean 'square'"),
        (
            {},
            {"model": "saved_models/digits-run/lst"},
            "there: saved_models/digits-run/last. Did you mean 'last'",
        ),
        ({}, {"model": "saved_models/digits-run"}, "there: saved_models/digits-run/last"),
        ({}, {"model": None}, "model must be given"),
        ({}, {"dataset": "cifr10"}, "Did you mean 'cifar10'"),
        ({}, {"dataset": "svhn_cropped", "order": "published"}, "Use --order=stored"),
        ({}, {"eps_grid": (0.1, 8)}, "eps_grid must be"),
        ({}, {"resume": True, "overwrite": True}, "exclude each other"),
        ({}, {"resume": True}, "requires a run"),
        ({}, {"num_examples": 0}, "num_examples must be"),
    ],
)
def test_bad_plans(inside, settings, options, message):
    with pytest.raises(UsageError, match=message):
        plan(settings, **options)
    assert not (inside / "runs").exists()


def test_a_training_is_not_overwritten(inside, tmp_path):
    run = tmp_path / "training"
    run.mkdir()
    record = {"versions": {"advtf": "0"}, "config": {}, "options": {"checkpoint_minutes": 10}}
    (run / "config.json").write_text(json.dumps(record))
    for switch in ("overwrite", "resume"):
        with pytest.raises(UsageError, match="must not hold a training"):
            plan(out_dir=str(run), **{switch: True})


def numbers(path):
    """The content of evaluation.json but what a clock measured and the command line."""

    def cleaned(value):
        if isinstance(value, dict):
            clocks = ("seconds", "tracing_seconds", "command")
            return {k: cleaned(v) for k, v in value.items() if k not in clocks}
        return value

    return cleaned(json.loads((path / "evaluation.json").read_text()))


class Killed(Exception):
    """As if by kill -9: nothing tidies up."""


@pytest.mark.slow
def test_a_killed_command_continues_to_the_same_numbers(inside, tmp_path, monkeypatch):
    settings = {"attacks": ("pgd", "screen"), "steps": 4, "targets": 2, "batch_size": 100}
    options = {"num_examples": 150, "eps_grid": (0.04,)}
    evaluation_run.execute(*plan(settings, **options, out_dir=str(tmp_path / "whole")))
    stopped = str(tmp_path / "stopped")
    writes, put = [], ResultCache.put

    def dying(self, name, arrays):
        put(self, name, arrays)
        writes.append(name)
        if len(writes) == 8:
            raise Killed

    (tmp_path / "stopped").mkdir()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ResultCache, "put", dying)
        evaluation_run.execute(*plan(settings, **options, out_dir=stopped, overwrite=True))
    with pytest.raises(UsageError, match="Add --overwrite to replace it or --resume"):
        plan(settings, **options, out_dir=stopped)
    with pytest.raises(UsageError, match=r"steps=4. Received: steps=5"):
        evaluation_run.plan({"steps": 5}, {"out_dir": stopped, "resume": True})
    before = tree(stopped)
    with pytest.raises(UsageError, match=r"num_examples=150. Received: num_examples=99"):
        evaluation_run.plan({}, {"out_dir": stopped, "resume": True, "num_examples": 99})
    assert tree(stopped) == before
    evaluation_run.execute(*evaluation_run.plan({}, {"out_dir": stopped, "resume": True}))
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "whole")
    assert not (tmp_path / "stopped" / "state").exists()


def test_the_command(folder, tmp_path):
    few = [f"--{name}={value}" for name, value in FEW.items()]
    out = tmp_path / "out"
    given = [f"--model={EXPORT}", "--attacks=pgd,square", f"--out_dir={out}", "--num_examples=80"]
    code, printed, error = command.run(
        COMMAND, folder, *given, *few, "--eps_grid=0.04,20/255", "--save_examples"
    )
    assert (code, error) == (0, "")
    assert "Error in % of 80 images (linf, ε 0.08)" in printed
    head, row = printed.split("Error in %")[1].splitlines()[1:3]
    assert head.split() == ["model", "clean", "PGD", "Square", "worst", "case"]
    assert row.startswith("digits-run/last")
    record = json.loads((out / "evaluation.json").read_text())
    shown = tuple(record[name] for name in ("dataset", "norm", "epsilon", "seed"))
    assert shown == ("digits", "linf", EPSILON, 0)
    assert {"python", "advtf", "tensorflow", "keras"} <= record["versions"].keys()
    assert record["images"] == load("digits").test.select(slice(80)).record()
    assert record["order"] == "stored"
    square = record["attacks"]["square"]
    assert {"error", "mean_loss", "forward_passes", "backward_passes", "seconds", "broken"} <= square.keys()
    assert square["backward_passes"] == 0 < square["forward_passes"]
    with np.load(out / "adversarial_examples.npz") as file:
        wrong = file["adversarial_predictions"] != file["labels"]
        assert record["worst_case"]["error"] == 100 * wrong.mean()
        assert np.flatnonzero(file["broken"]).tolist() == record["worst_case"]["broken"]
        np.testing.assert_allclose(file["l2_sizes"], norms("l2", file["adversarial"] - file["clean"]))
    with np.load(out / "examples.npz") as file:
        assert (np.diff(file["l2_sizes"]) >= 0).all() and len(file["index"]) == 12
    assert sorted(p.name for p in (out / "figures").iterdir()) == ["extremes.png", "robust_accuracy.png"]
    before = tree(out)
    code, _, error = command.run(COMMAND, folder, *given)
    assert code == 2 and error.count("\n") == 1 and "holds a run (finished)" in error
    code, printed, _ = command.run(COMMAND, folder, f"--out_dir={out}", "--resume")
    assert code == 0 and "is finished" in printed
    assert tree(out) == before


def test_mistakes_are_answered_at_once_and_without_tensorflow(tmp_path):
    poison, work = command.poisoned(tmp_path / "poison"), tmp_path / "work"
    work.mkdir()
    before = children_seconds()
    code, _, error = command.run(COMMAND, work, "--model=nowhere/x", "--attacks=pgd", first=[poison])
    assert children_seconds() - before < 1
    assert code == 2 and error.count("\n") == 1 and "nowhere/x" in error
    assert not list(work.iterdir())


def test_the_module_of_the_command_is_also_the_library_function(tmp_path):
    poison = command.poisoned(tmp_path / "poison")
    code = "import advtf.evaluate; assert callable(advtf.evaluate)"
    subprocess.run([sys.executable, "-c", code], env=command.environment(poison), check=True)


def test_figures_refuse_foreign_files(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    np.savez(tmp_path / "a.npz", clean=np.zeros(3))
    with pytest.raises(UsageError, match=r"evaluation\.json of advtf\.evaluate is required"):
        evaluation_plots.robust_accuracy(tmp_path / "a.json", tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"an NPZ with clean.* is required"):
        evaluation_plots.extremes(tmp_path / "a.npz", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_classes_of_data_and_model_must_agree(inside, tmp_path):
    image = keras.Input((8, 8, 1))
    other = keras.Model(image, keras.layers.Dense(12)(keras.layers.Flatten()(image)))
    export_classifier(other, tmp_path / "other", sample=digits()[1][:4])
    settings, options = plan({"attacks": ("pgd",)}, model=str(tmp_path / "other"), dataset="digits")[1:]
    with pytest.raises(UsageError, match="10 classes of digits"):
        evaluation_run.load(settings, options)
    with pytest.raises(UsageError, match="dataset must be given"):
        plan(model=str(tmp_path / "other"))
