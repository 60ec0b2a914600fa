"""The suite of benchmarks: every entry runs at tiny size; figure, table and page tell what the files hold."""

import argparse
import dataclasses
import importlib.util
import json
import re
import shlex
import time

import numpy as np
import pytest
from helpers import command as process
from helpers.command import ROOT
from helpers.figures import drawn_panels

from advtf.errors import UsageError
from advtf.figures import style
from launch.benchmarks import __main__ as suite
from launch.benchmarks import registry, report
from launch.benchmarks.registry import ENTRIES
from launch.common.benchmark import Comparison, Result, read_results
from launch.common.classifiers import CLASSIFIERS
from launch.common.timing import timed_in_turn

PUBLISHED = ROOT / "docs" / "results" / "benchmarks"
PAGE = ROOT / "docs" / "results" / "cost.md"
SLOW = [name for name in ENTRIES if name != "hessian"]


def result_of(name, *rows):
    machine = {"cpu": "A CPU", "cores": 2, "features": ["avx2", "avx512_bf16"], "gpus": []}
    return Result(
        name, "About it.", f"run {name}", "2026-11-22", {"keras": "3"}, machine, {"rounds": 3}, rows
    )


def flat(weights):
    return np.concatenate([weight.ravel() for weight in weights])


def row_of(what="step", against="peer", pairs=((1, 2), (3, 4), (6, 5)), **more):
    return Comparison(what, "advtf", against, pairs, **more)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in ENTRIES]
)
def test_an_entry_runs_at_tiny_size(tmp_path, capsys, name):
    # To import torchattacks or ART would close the streams in which pytest captures what is printed.
    missing = [package for package in ENTRIES[name].needs if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    given = [name, "--smoke", f"--out={tmp_path}"]
    if name in SLOW:
        code, out, error = process.run("launch.benchmarks", tmp_path, *given)
        assert code == 0, error
    else:
        suite.main(given)
        out = capsys.readouterr().out
    found = read_results(tmp_path)[name]
    assert found.entry == name and found.comparisons and found.settings["rounds"] == 1
    assert str(found.comparisons[0]) in out
    assert set(found.versions) >= {registry.PACKAGES[package] for package in ENTRIES[name].needs}
    report.table({name: found})


def test_every_entry_is_a_module_and_is_listed(capsys):
    suite.main(["--list"])
    listed = capsys.readouterr().out
    for name, entry in ENTRIES.items():
        assert callable(importlib.import_module(f"launch.benchmarks.{name}").compare)
        assert re.search(rf"^{name} +{re.escape(entry.about)}", listed, re.MULTILINE)


def test_help_names_entries_and_their_options():
    text = suite.arguments_parser().format_help()
    for name, entry in ENTRIES.items():
        assert f"\n{name}:\n" in text and all(f"--{name}.{key}" in text for key in entry.options)


@pytest.mark.parametrize(
    "given",
    [["step"], ["step", "--step.width=3", "--step.compile"], ["hessian", "--hessian.model=a b", "--smoke"]],
)
def test_the_command_of_a_result_means_its_options(given):
    chosen = suite.arguments_parser().parse_args([*given, "--rounds=4"])
    options = suite.options_of(given[0], chosen)
    words = shlex.split(suite.command_of(given[0], options))
    assert words[:3] == ["python", "-m", "launch.benchmarks"]
    again = suite.arguments_parser().parse_args(words[3:])
    assert suite.options_of(given[0], again) == options


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"no torch, art\. Run pip install \"\.\[compare\]\""):
        list(registry.compare("attacks", argparse.Namespace()))


def test_a_result_with_the_same_settings_is_kept(tmp_path, monkeypatch, capsys):
    calls = []

    def compare(name, options):
        calls.append(options.rounds)
        yield row_of()

    monkeypatch.setattr(registry, "compare", compare)
    for given in (["--rounds=2"], ["--rounds=2", "--resume"], ["--rounds=3", "--resume"], ["--rounds=3"]):
        suite.main(["start", f"--out={tmp_path}", *given])
    assert calls == [2, 3, 3]


def test_entries_are_measured_in_a_process_each(monkeypatch):
    started = []

    def run(command):
        started.append(command[3:])
        return argparse.Namespace(returncode=int(command[3] == "fit"))

    monkeypatch.setattr(suite.subprocess, "run", run)
    with pytest.raises(UsageError, match="a failure in fit;"):
        suite.main(["step", "fit", "start", "--rounds=2"])
    assert started == [["step", "--rounds=2"], ["fit", "--rounds=2"], ["start", "--rounds=2"]]


def test_all_leaves_out_what_asks_for_another_machine(monkeypatch):
    started = []
    monkeypatch.setattr(suite, "measure_in_turn", lambda names, given: started.append(names) or [])
    suite.main(["all"])
    suite.main(["all", "gpu"])
    assert started == [[name for name in ENTRIES if name != "gpu"], [*ENTRIES]]


def test_calls_are_timed_in_turn_forwards_and_backwards():
    order = []

    def call(name, seconds):
        return lambda: (order.append(name), time.sleep(seconds))

    times = timed_in_turn({"a": call("a", 0.02), "b": call("b", 0), "c": call("c", 0)}, 3)
    assert "".join(order) == "abccbaabc"
    assert len(times["b"]) == 3 and all(a >= 0.02 > b for a, b in times.pairs("a", "b"))


def test_the_trainings_of_the_classifiers_are_possible():
    from advtf.training.settings import RunOptions, TrainConfig

    files = {field.name for field in dataclasses.fields(RunOptions)}
    for path, command in CLASSIFIERS.items():
        python, flag, module, *words = shlex.split(command)
        assert (python, flag, module) == ("python", "-m", "advtf.main")
        given = dict(word.removeprefix("--").split("=", 1) for word in words)
        assert f"{given['export_dir']}/last" == path
        TrainConfig.of({name: value for name, value in given.items() if name not in files})


def test_the_figure_shows_the_ratios_their_ranges_and_the_goals(tmp_path, monkeypatch):
    drawn = drawn_panels(monkeypatch, style)
    rows = row_of(goal=0.5), row_of(against="other", pairs=((1, 8), (1, 2)))
    agreement = result_of("attack_strength", row_of(unit="% robust error", pairs=[(90, 91)]))
    found = {"start": result_of("start", row_of("run")), "step": result_of("step", *rows)}
    report.draw(found | {"attack_strength": agreement, "foreign": agreement}, tmp_path / "b.png")
    ((axes,),) = drawn
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["", "peer", "other", "", "peer"]
    assert [text.get_text() for text in axes.texts] == ["step, advtf", "run, advtf"]
    curves = [np.column_stack(line.get_data()).tolist() for line in axes.get_lines()]
    expected = [[[0.5, 1], [1.2, 1]], [[0.75, 1]], [[0.5, 1]], [[0.125, 2], [0.5, 2]], [[0.3125, 2]]]
    assert curves == expected + [[[0.5, 4], [1.2, 4]], [[0.75, 4]], [[1, 0], [1, 1]]]
    assert (tmp_path / "b.png").stat().st_size > 1000


def test_the_table_shows_ratios_costs_and_goals(tmp_path):
    rows = (
        row_of(goal=0.7, work="8 images"),
        row_of(against="other", pairs=[(0.02, 2)]),
        row_of(unit="products"),
    )
    text = report.table({"step": result_of("step", *rows)})
    assert "| step (8 images) | advtf | peer | **0.75** (0.50 to 1.20) | 3 s | 4 s | 0.70, missed |" in text
    assert "| **0.010** (0.010 to 0.010) | 20 ms | 2 s |  |" in text and "| 3 products | 4 products |" in text
    assert "2026-11-22, 3 rounds; A CPU, 2 cores (avx512_bf16); keras 3." in text
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    for _ in range(2):
        report.write_table({"step": result_of("step", *rows)}, page)
        assert page.read_text() == f"before\n{report.BEGIN}\n\n{text}\n\n{report.END}\nafter\n"
    page.write_text("without marks")
    with pytest.raises(UsageError, match="page must hold the lines"):
        report.write_table({}, page)


def test_the_page_tells_the_published_results():
    found = read_results(PUBLISHED)
    assert found and all(found[name].entry == name for name in found)
    assert f"{report.BEGIN}\n\n{report.table(found)}\n\n{report.END}" in PAGE.read_text()
    assert all("/" not in json.dumps(result.machine) for result in found.values())


@pytest.mark.parametrize(
    ("name", "shape"),
    [("lenet", (8, 8, 1)), pytest.param("resnet18", (8, 8, 3), marks=pytest.mark.slow)]
    + [pytest.param("preact_resnet18", (8, 8, 3), marks=pytest.mark.slow)],
)
def test_a_step_in_pytorch_is_the_same_mathematics(name, shape, monkeypatch):
    """One step from equal weights, PGD from the image itself: the weights of both stay equal."""
    pytest.importorskip("torch")
    import tensorflow as tf
    import torch

    from advtf.classifiers.pytorch import convert_state_dict
    from advtf.data.sets import from_arrays
    from advtf.runtime import start
    from advtf.training.run import build_trainer
    from advtf.training.settings import TrainConfig
    from launch.benchmarks.step import recipe_of
    from launch.common.peers import VARIANT, to_torch, torch_copy
    from launch.common.torch_training import STYLES, training_step

    rng = np.random.default_rng(0)
    x, y = rng.random((16, *shape), np.float32), rng.integers(0, 3, 16).astype(np.int32)
    given = {"dataset": "cifar10", "model": name, "width": 1, "augment": False, "batch_size": 16, "epochs": 1}
    given |= {"eps_sched": "constant", "optimizer": "sgd", "lr": 0.1, "lr_sched": "constant", "momentum": 0.9}
    config = TrainConfig.of(given | {"weight_decay": 5e-2, "random_start": "none", "attack_steps": 3})
    trainer = build_trainer(config, from_arrays(x, y, x[:1], y[:1], num_classes=3), start())
    networks = {key: torch_copy(trainer.classifier, name, 1) for key in ("paper", "float32")}
    before = flat(trainer.classifier.get_weights())
    trainer.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors((x, y)).repeat())
    for _ in range(2):  # the second has momentum
        trainer.train_function(batches)
    trained = flat(trainer.classifier.get_weights())
    for key, network in networks.items():
        labels = torch.tensor(y, dtype=torch.int64)
        step = training_step(network, to_torch(x), labels, STYLES[key], recipe_of(config))
        step(), step()
        settings = VARIANT.get(name, {}) | {"image_size": shape[0], "mean": 0.0, "std": 1.0}
        back = convert_state_dict(network.state_dict(), name, **settings).get_weights()
        # A gradient of almost zero has another sign where it is rounded otherwise: a few pixels may differ.
        assert np.linalg.norm(flat(back) - trained) < 0.02 * np.linalg.norm(trained - before)
