"""The command `python -m advtf.main`, from the flags to the files, in processes of their own."""

import dataclasses
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import command
from helpers.page import Page
from helpers.run import children_seconds, epoch_values, reached, snapshot_bits, tree

import advtf
from advtf import main
from advtf.classifiers.manifest import is_own
from advtf.data.sets import load
from advtf.errors import UsageError
from advtf.settings.commands import plan_table
from advtf.training.directory import TrainingDirectory
from advtf.training.run import build_classifier
from advtf.training.settings import RunOptions, TrainConfig, describe

COMMAND = "advtf.main"
EPOCHS, STEPS = 6, 20
NAME = "digits-lenet-cosine-seed0"
EPSILON = 0.1
QUICK_START = [f"--epochs={EPOCHS}", f"--eps={EPSILON}", "--checkpoint_minutes=1e-9"]  # at every step
KEYS = [
    *["epoch", "step", "epsilon", "learning_rate", "loss", "clean_accuracy", "robust_accuracy"],
    *["val_loss", "val_clean_accuracy", "val_robust_accuracy"],
    *["gradient_norm", "distance_from_init", "seconds", "images_per_second"],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("command")


@pytest.fixture(scope="module")
def finished(folder):
    """The quick start, shortened; returns its directory and what it printed."""
    code, out, error = command.run(COMMAND, folder, *QUICK_START)
    assert (code, error) == (0, "")
    return TrainingDirectory(folder / "runs" / NAME), out


def test_a_small_step_has_one_thread_unless_it_is_told_or_begun_otherwise(finished, tmp_path, monkeypatch):
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    assert finished[0].read_config()["threads"]["intra_op"] == 1
    small, large = TrainConfig(), TrainConfig.of({"dataset": "mnist"})
    new, resumed = RunOptions(), RunOptions(resume=True)
    assert [main._in_parallel(config, new, finished[0]) for config in (small, large)] == [False, True]
    for record, expected in (
        ({"threads": {"intra_op": 1}}, False),
        ({"threads": {"intra_op": 2}}, True),
        ({}, True),  # earlier versions recorded none, and shared every operation
    ):
        run = TrainingDirectory(tmp_path)
        monkeypatch.setattr(TrainingDirectory, "read_config", lambda self, record=record: record)
        assert [main._in_parallel(config, resumed, run) for config in (small, large)] == [expected] * 2
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    assert main._in_parallel(small, new, run)  # the variable decides


# Help


def test_help_shows_every_flag_at_once_without_tensorflow_or_numpy(tmp_path):
    poison = command.poisoned(tmp_path / "poison")
    (poison / "numpy").mkdir()
    (poison / "numpy" / "__init__.py").write_text("raise SystemExit('imported too early')")
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        code, out, error = command.run(COMMAND, tmp_path, "--help", first=[poison])
        seconds.append(time.perf_counter() - began)
    assert (code, error) == (0, "")
    shown = {word.lstrip("-").removeprefix("[no]") for word in out.split() if word.startswith("--")}
    assert {field.name for cls in (TrainConfig, RunOptions) for field in dataclasses.fields(cls)} <= shown
    assert min(seconds) < 1.0


# The quick start


def test_the_plan_the_progress_and_the_results_are_all_there_is_to_read(finished):
    _, out = finished
    plan = out.split("Epoch 1/")[0].splitlines()
    sections = "data model attack method epsilon optimizer compute measured given output device images"
    assert [line.split()[0] for line in plan] == sections.split()
    assert "0.1, 10 steps of 0.025" in plan[2] and f"runs/{NAME}, exports in saved_models/{NAME}" in plan[9]
    assert "1,295 train, 143 validation, 359 test, 8×8×1, 10 classes" in plan[11]
    assert re.findall(r"Epoch (\d)/6", out) == list("123456")
    rows = out.split("Error in % of 359 test images")[1]
    order = ["last (epoch 6)", "best (epoch ", "period1 (epoch 3)", "period2 (epoch 5)", "period3 (epoch 6)"]
    positions = [rows.index(name) for name in [*order, "ensemble", "Wrote ", "Finished in "]]
    assert positions == sorted(positions)
    for noise in ("tensorflow", "warning", "onednn", "cuda", "traceback", "nan"):
        assert noise not in out.lower().replace("tensorflow_datasets", "")


def test_the_files_of_the_contract_exist(finished, folder):
    run, out = finished
    names = {path.name for path in run.path.iterdir()}
    every = {".lock", *run.own_files, *run.own_folders}
    assert names == every - {"dynamics.npz"}  # which is written on request only
    assert [path.name for path in sorted(run.checkpoints.iterdir())] == [
        "step-0000000119.npz",
        "step-0000000120.npz",
    ]
    assert {path.stem for path in run.snapshots.iterdir()} == {
        "best",
        "last",
        "period1",
        "period2",
        "period3",
    }
    for name in ("train", "validation"):
        assert len(list((run.tensorboard / name).glob("events.out.tfevents.*"))) == 1
    figures = sorted(run.figures.iterdir())
    assert [path.name for path in figures] == [
        "adversarial_examples.png",
        "learning_curves.png",
        "schedule.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)
    for line in out.split("Wrote ")[1].split("Finished")[0].split():
        assert (folder / line).exists()
    stored = json.loads(run.config.read_text())
    assert TrainConfig.from_json(stored["config"]) == TrainConfig.of({"epochs": EPOCHS, "eps": EPSILON})
    assert stored["image_counts"] == {"train": 1295, "validation": 143, "test": 359}  # for the headings
    assert stored["command"] == " ".join(QUICK_START) and "tensorflow" in stored["versions"]


def test_every_epoch_has_its_record(finished):
    records = [json.loads(line) for line in finished[0].metrics.read_text().splitlines()]
    assert [list(record) for record in records] == [KEYS] * EPOCHS
    assert [(r["epoch"], r["step"]) for r in records] == [(e, e * STEPS) for e in range(1, EPOCHS + 1)]
    # Equation 5 in periods of 3, 2 and 1 epochs: (1 - cos(pi d / D)) / 2 of 0.15, at most 0.1.
    expected = [0, 0.15 / 4, 0.1, 0, 0.075, 0]
    np.testing.assert_allclose([r["epsilon"] for r in records], expected, atol=1e-7)
    assert records[-1]["val_clean_accuracy"] > 0.6 > records[0]["val_clean_accuracy"]
    assert all(0 <= r["robust_accuracy"] <= r["clean_accuracy"] + 0.05 <= 1.05 for r in records)


def test_exports_have_the_reported_errors(finished, folder):
    run, _ = finished
    evaluation = json.loads(run.results.read_text())
    test = load("digits").test
    batches = advtf.evaluation_batches(test, 359)
    attack = advtf.pgd("linf", 10, 0.25)
    assert evaluation["attack"] == {
        "name": "PGD-10",
        "norm": "linf",
        "epsilon": 0.1,
        "relative_step": 0.25,
        "restarts": 1,
        "seed": 0,
    }
    trained_on = load("digits", val_fraction=0.1)
    parts = {name: getattr(trained_on, name).record() for name in ("train", "validation", "test")}
    assert evaluation["images"] == {"order": "stored"} | parts
    assert set(evaluation["exports"]) == set(evaluation["results"])
    for name in ("last", "period1", "ensemble"):
        path = folder / evaluation["exports"][name]
        classifier, record = advtf.load_classifier(path), evaluation["results"][name]
        wrong = np.argmax(classifier(test.images), -1) != test.labels
        assert 100 * wrong.mean() == pytest.approx(record["clean_error"], abs=1e-4)
        errors = advtf.robust_error(classifier, batches, attack, 0.1, seed=3)
        # Other starts (a batch of another size, another seed) move a few of the 359 images.
        assert errors.robust_error == pytest.approx(record["pgd_error"], abs=1.5)
        assert record["examples"] == 359 and record["pgd_error"] >= record["clean_error"]
        assert classifier.manifest["test"] == record and classifier.manifest["dataset"] == "digits"
        assert classifier.manifest["images"] == evaluation["images"]
        assert classifier.output == ("log_probabilities" if name == "ensemble" else "logits")
    members = [advtf.load_classifier(folder / evaluation["exports"][f"period{k}"]) for k in (1, 2, 3)]
    x = test.images[:50]
    logits = np.stack([np.asarray(member(x), np.float64) for member in members])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    ensemble = advtf.load_classifier(folder / evaluation["exports"]["ensemble"])
    np.testing.assert_allclose(np.asarray(ensemble(x)), np.log(p.mean(0)), atol=1e-4)


def test_exports_belong_to_the_run_and_not_to_a_copy_of_it(finished, folder, tmp_path):
    run, _ = finished
    exports = [Path(path) for path in json.loads(run.results.read_text())["exports"].values()]
    copy = TrainingDirectory(shutil.copytree(run.path, tmp_path / "copy"))
    assert run.identity().id == copy.identity().id and len(exports) == 6
    for path in exports:
        assert is_own(path, run.identity()) and not is_own(path, copy.identity())


def test_resuming_a_finished_run_says_so_at_once(finished, folder):
    before = tree(folder)
    repeated = ["--periods=0.5,0.75", "--eps=1/10"]  # as they are, in other words
    code, out, error = command.run(COMMAND, folder, f"--out_dir=runs/{NAME}", "--resume", *repeated)
    assert (code, error) == (0, "") and "is finished" in out and "evaluation.json" in out
    assert tree(folder) == before


# The report


def test_the_report_has_the_errors_of_the_run_and_needs_no_tensorflow(finished, folder, tmp_path):
    run, _ = finished
    records = json.loads(run.results.read_text())["results"]
    poison = command.poisoned(tmp_path / "poison")
    page, card = f"runs/{NAME}/report.html", f"saved_models/{NAME}/best/model_card.html"
    for given, out in ((f"runs/{NAME}", page), (f"saved_models/{NAME}/best", card)):
        for _ in range(2):  # the second replaces the first
            assert command.run("advtf.report", folder, f"--run={given}", first=(poison,)) == (
                0,
                f"Wrote {out}\n",
                "",
            )
    told = Page((folder / page).read_text())
    (rows,) = (rows for caption, rows in told.tables.items() if caption.startswith("Errors in %"))
    assert {row[0][0]: (row[2][1], row[3][1]) for row in rows} == {
        name: ([record["clean_error"]], [record["pgd_error"]]) for name, record in records.items()
    }
    for line in plan_table(describe(TrainConfig.of({"epochs": EPOCHS}), {})).splitlines()[:-1]:
        assert line.split(maxsplit=1)[1] in told.text
    assert len(told.of("svg")) == 2 and len(told.of("img")) == 1
    assert len(Page((folder / card).read_text()).of("svg")) == 2  # its run is found
    assert is_own(folder / card.rpartition("/")[0], run.identity())
    for path in (page, card):
        (folder / path).unlink()


# Kills


def stop(process, run, step, number, delay=0.0):
    """Sends a signal once the checkpoint of `step` is there; returns (exit code, stdout, stderr)."""
    return command.stop(process, lambda: reached(run.checkpoints, step), number, delay)


@pytest.mark.slow
def test_killed_runs_resume_to_the_bits_of_one_that_was_not(finished, folder):
    whole, _ = finished
    run = TrainingDirectory(folder / "runs" / f"{NAME}-2")  # the quick start again: the next number
    hint = f"Continue with: python -m advtf.main --out_dir=runs/{NAME}-2 --resume"
    code, out, error = stop(command.start(COMMAND, folder, *QUICK_START), run, 7, signal.SIGTERM)
    assert (code, error) == (143, "") and "SIGTERM" in out and hint in out
    saved = int(re.search(r"saved at step (\d+)", out)[1])
    assert run.state() == "unfinished" and run.checkpoints.joinpath(f"step-{saved:010d}.npz").exists()

    code, out, error = stop(command.start(COMMAND, folder, "--resume", *QUICK_START), run, 26, signal.SIGINT)
    assert (code, error) == (130, "") and "SIGINT" in out and hint in out
    assert f"Continuing after step {saved} of 120." in out

    moment = float(np.random.default_rng(os.getpid()).uniform(0, 0.3))  # anywhere, a write included
    again = command.start(
        COMMAND, folder, f"--out_dir=runs/{NAME}-2", "--resume", "--checkpoint_minutes=1e-9"
    )
    code, out, error = stop(again, run, 45, signal.SIGKILL, moment)
    assert (code, error) == (-signal.SIGKILL, ""), f"killed after {moment} s"

    code, out, error = command.run(COMMAND, folder, "--resume")
    assert (code, error) == (0, "") and "Continuing after step" in out
    assert epoch_values(run.metrics) == epoch_values(whole.metrics), f"killed after {moment} s"
    assert snapshot_bits(run.snapshots) == snapshot_bits(whole.snapshots)
    records = [json.loads(r.results.read_text())["results"] for r in (run, whole)]
    assert records[0] == records[1]
    assert (folder / "saved_models" / f"{NAME}-2" / "ensemble" / "manifest.json").exists()


# Mistakes


def test_a_mistake_costs_one_line_and_changes_nothing(tmp_path):
    """All the others are in test_bad_inputs."""
    poison = command.poisoned(tmp_path / "poison")
    work = tmp_path / "work"
    (work / "foreign").mkdir(parents=True)
    (work / "foreign" / "thesis.tex").write_text("years of work")
    before = tree(work)
    began = children_seconds()
    code, out, error = command.run(COMMAND, work, "--out_dir=foreign", "--overwrite", first=[poison])
    assert children_seconds() - began < 1  # of the processor
    assert (code, out) == (2, "") and error.startswith("error: ") and error.count("\n") == 1
    assert "holds other files" in error and tree(work) == before


def test_a_resumed_run_keeps_its_options_unless_they_are_given_anew(tmp_path):
    run = TrainingDirectory(tmp_path / "run")
    started = dict(input_every="2", input_examples="50", histograms="true", export_dir="x", verbose="true")
    with run.locked():
        run.write_config(TrainConfig.of({"epochs": 6}), RunOptions.of(started))
    given_options = {"resume": "true", "out_dir": str(run.path), "input_examples": "60", "export_dir": "y"}
    for periods in ("3,5", "0.5,0.75"):
        config, options = main._stored(run, {"periods": periods}, given_options)
        assert config == TrainConfig.of({"epochs": 6})
    kept = RunOptions(input_every=2, input_examples=60, histograms=True, export_dir="y")
    assert options == dataclasses.replace(kept, resume=True, out_dir=str(run.path))


def test_a_run_of_before_the_published_blocks_resumes_as_the_textbooks(tmp_path):
    run = TrainingDirectory(tmp_path / "run")
    settings = {"model": "preact_resnet18", "width": 1}
    with run.locked():
        run.write_config(TrainConfig.of(settings), RunOptions())
    record = json.loads(run.config.read_text())
    assert record["config"]["shortcut"] == "raw"
    del record["config"]["shortcut"], record["config"]["stride_in"]
    run.config.write_text(json.dumps(record))
    config, _ = main._stored(run, {}, {"resume": "true"})
    assert config == TrainConfig.of(settings | {"shortcut": "activated"})
    network = build_classifier(config, load("digits"))
    shortcut, activation = (
        network.get_layer(f"stage2_block1_{part}") for part in ("shortcut_subsample", "act")
    )
    assert shortcut.input is activation.output
    with pytest.raises(UsageError, match=r"run: shortcut=activated\. Received: shortcut=raw\."):
        main._stored(run, {"shortcut": "raw"}, {"resume": "true"})


def run_in_process(folder, settings, **options):
    """What the command does once its flags are understood."""
    run = TrainingDirectory(folder / "run", folder / "exports")
    main._train_and_finish(TrainConfig.of(settings), RunOptions(**options), run, cluster=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(batch_size=2000), "batch_size must be between 1 and the 1295 examples"),
        (dict(steps_per_epoch=21), "steps_per_epoch must be between 1 and 20"),
        (dict(strategy="mirrored"), "at least 2 devices"),
        (dict(dataset="digist"), "Did you mean 'digits'"),
        (dict(val_fraction=1e-9), "val_fraction must hold out"),
    ],
)
def test_what_does_not_fit_the_data_destroys_nothing(finished, folder, settings, message):
    before = tree(folder)
    run, _ = finished
    with pytest.raises(UsageError, match=message):
        main._train_and_finish(TrainConfig.of(settings), RunOptions(overwrite=True), run, cluster=None)
    assert tree(folder) == before


def test_a_directory_in_use_is_refused(tmp_path):
    run = TrainingDirectory(tmp_path / "run")
    with run.locked(), pytest.raises(UsageError, match=f"used by process {os.getpid()}"):
        run_in_process(tmp_path, dict(model="linear"))
    assert run.state() == "new"


def test_a_training_that_diverges_ends_with_exit_code_1_and_one_line(tmp_path, capsys):
    settings = dict(model="linear", optimizer="sgd", lr=1e38, attack_steps=1, epochs=2)
    with pytest.raises(SystemExit) as stopped:
        run_in_process(tmp_path, settings)
    error = capsys.readouterr().err
    assert stopped.value.code == 1 and error.startswith("error: the loss must stay finite")
    assert error.count("\n") == 1


def test_an_interruption_before_training_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main.commands, "given_flags", lambda *_: {})

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "_train_and_finish", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main.main([])
    assert (
        stopped.value.code == 130
        and capsys.readouterr().out.splitlines()[-1]
        == "Interrupted. Nothing was written yet; run the same command again."
    )
    assert list(tmp_path.iterdir()) == []


# Data of TFDS


@pytest.mark.slow
def test_a_flagfile_trains_on_prepared_data(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    image, label = tfds.features.Image(shape=(28, 28, 1)), tfds.features.ClassLabel(num_classes=10)
    rng = np.random.default_rng(0)

    def examples(count):
        return [
            (i, {"image": rng.integers(0, 256, (28, 28, 1), np.uint8), "label": i % 10}) for i in range(count)
        ]

    tfds.dataset_builders.store_as_tfds_dataset(
        name="mnist",
        version="3.0.1",
        features=tfds.features.FeaturesDict({"image": image, "label": label}),
        data_dir=str(tmp_path / "data"),
        split_datasets={"train": examples(50), "test": examples(20)},
    )
    before = tree(tmp_path / "data")
    (tmp_path / "flags").symlink_to(command.ROOT / "flags")  # files name those that they include from here
    code, out, error = command.run(
        COMMAND,
        tmp_path,
        "--flagfile=flags/liu2020/mnist/lenet/w2_linear.flags",
        *["--width=1", "--data_dir=data", "--epochs=2", "--batch_size=8", "--val_fraction=0.2"],
        *["--attack_steps=2", "--attack_step_size=eps/2", "--eval_examples=13", "--eval_restarts=2"],
        *["--precision=bfloat16", "--out_dir=my run", "--export_dir=my exports"],
    )
    assert (code, error) == (0, "")
    assert "40 train, 10 validation, 20 test, 28×28×1, 10 classes" in out
    assert "Error in % of 13 test images (PGD-2×2, linf, ε 0.4)" in out
    records = epoch_values(tmp_path / "my run" / "metrics.jsonl")
    assert [(r["step"], r["epsilon"]) for r in records] == [(5, 0.0), (10, pytest.approx(0.4))]
    classifier = advtf.load_classifier(tmp_path / "my exports" / "last")
    assert classifier.input_shape == (28, 28, 1) and classifier.num_classes == 10
    assert classifier.manifest["config"]["precision"] == "bfloat16"
    assert tree(tmp_path / "data") == before
