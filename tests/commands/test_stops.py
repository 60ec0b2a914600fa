"""Ctrl-C, SIGTERM and full disks: one line that says how to continue, and the same results afterwards.

The disk is full because ``fsync`` says so, or really: ``/dev/full`` takes nothing.
"""

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import tensorflow as tf
from helpers import command
from helpers.analysis import register
from helpers.evaluate import EXPORT, export_digits
from helpers.export import batch, network
from helpers.resume import Crash, attempt, crashing
from helpers.run import epoch_values, snapshot_bits

from advtf import analyze, evaluate, main
from advtf.classifiers.export import export_classifier
from advtf.errors import DiskFull
from advtf.evaluation import run as evaluation_run
from advtf.settings.commands import exit_on_usage_error
from advtf.storage import files, jsonl
from advtf.storage.cache import ResultCache
from advtf.studies import run as analysis_run
from advtf.studies.context import StudyContext
from advtf.training.directory import TrainingDirectory
from advtf.training.logs import TensorBoard

SETTINGS = dict(
    model="mlp", width=1, attack_steps=1, epochs=2, steps_per_epoch=3, batch_size=16, periods=(), lr=0.01
)


def no_room():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def leftovers(folder):
    return [path.name for path in Path(folder).rglob("*") if path.name.endswith((".partial", ".previous"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export_digits(tmp_path_factory.mktemp("stops"))


@pytest.fixture
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def stopped(run, happening, owner, name, call, work):
    """Does `work` in a run and stops it; returns the exit code."""
    with (
        crashing(owner, name, call, happening),
        pytest.raises(SystemExit) as stop,
        run.tell_how_to_continue(),
    ):
        work()
    return stop.value.code


STOPS = {
    130: (lambda: signal.raise_signal(signal.SIGINT), "Interrupted. Continue with: "),
    143: (lambda: signal.raise_signal(signal.SIGTERM), "Interrupted by SIGTERM. Continue with: "),
    1: (no_room, "No space left on device. "),
}


@pytest.mark.parametrize("code", [130, 143])
@pytest.mark.parametrize(
    "kind", [TrainingDirectory, evaluation_run.EvaluationDirectory, analysis_run.AnalysisDirectory]
)
def test_what_is_stopped_before_it_has_written_anything_says_so(tmp_path, kind, code, capsys):
    run = kind(tmp_path / "run")

    def work():
        with run.locked():
            STOPS[code][0]()

    with pytest.raises(SystemExit) as stop, run.tell_how_to_continue():
        work()
    by = " by SIGTERM" if code == 143 else ""
    assert stop.value.code == code
    assert capsys.readouterr().out == (
        f"Interrupted{by}. Nothing was written yet; run the same command again.\n"
    )


# Training


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return attempt(tmp_path_factory.mktemp("undisturbed") / "run", SETTINGS).run


def test_a_training_on_a_full_disk_says_what_was_kept_and_continues_with_the_same_bits(
    tmp_path, undisturbed, capsys
):
    run = TrainingDirectory(tmp_path / "run")
    run.path.mkdir()
    run.write_config(main.TrainConfig.of(SETTINGS), main.RunOptions())
    errors = []
    for call in (5, 9):  # the second time the disk lasts a little longer
        assert stopped(run, no_room, os, "fsync", call, lambda: attempt(run.path, SETTINGS)) == 1
        errors.append(capsys.readouterr().err)
        assert leftovers(tmp_path) == []
    for error in errors:
        assert error.startswith("error: the disk must have room for ") and error.count("\n") == 1
        assert error.endswith(f"then continue with: {run.resume_command}\n")
    assert "Kept: the checkpoint of step " in errors[-1]
    attempt(run.path, SETTINGS)
    assert epoch_values(run.metrics) == epoch_values(undisturbed.metrics)
    assert snapshot_bits(run.snapshots) == snapshot_bits(undisturbed.snapshots)


def test_tensorboard_on_a_full_disk_names_its_folder(tmp_path, monkeypatch):
    log = TensorBoard(tmp_path / "tensorboard")
    for reason, expected, words in (
        (
            "events.out; No space left on device\n\tFailed",
            DiskFull,
            f"room for {tmp_path}/tensorboard",
        ),
        ("OOM when allocating a tensor", tf.errors.ResourceExhaustedError, "OOM"),  # the memory of a device
    ):

        def write(record, reason=reason):
            raise tf.errors.ResourceExhaustedError(None, None, reason)

        monkeypatch.setattr(log, "_write", write)
        with pytest.raises(expected, match=words):
            log.write({"epoch": 1})


# Evaluation and analysis


def evaluation(out, **options):
    settings = {"attacks": ("pgd",), "batch_size": 40, "pgd_steps": 2}
    given = {"model": EXPORT, "num_examples": 100, "out_dir": str(out), **options}
    return evaluation_run.plan(settings, given)


def numbers(path):
    def cleaned(value):
        if isinstance(value, dict):
            return {
                k: cleaned(v) for k, v in value.items() if k not in ("seconds", "tracing_seconds", "command")
            }
        return value

    return cleaned(json.loads((path / "evaluation.json").read_text()))


@pytest.fixture(scope="module")
def evaluated(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        evaluation_run.execute(*evaluation(out))
    return numbers(out)


@pytest.mark.parametrize("code", [143, pytest.param(1, marks=pytest.mark.slow)])
def test_an_evaluation_that_is_stopped_says_how_to_continue_and_does(
    inside, tmp_path, evaluated, code, capsys
):
    happening, words = STOPS[code]
    planned = evaluation(tmp_path / "my out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.commands, "given_flags", lambda *_: {})
        patch.setattr(evaluate.evaluation_run, "plan", lambda *_: planned)
        with crashing(ResultCache, "put", 3, happening), pytest.raises(SystemExit) as stop:
            evaluate.main([])
    printed = capsys.readouterr()
    hint = f"python -m advtf.evaluate --out_dir='{tmp_path}/my out' --resume"
    line = printed.err if code == 1 else printed.out.splitlines()[-1]
    assert stop.value.code == code and words in line and hint in line
    if code == 1:
        assert "Kept: 2 finished parts of the attacks. Free some space, then continue with: " in line
        assert line.count("\n") == 1
    assert leftovers(tmp_path) == [] and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    evaluation_run.execute(*evaluation_run.plan({}, {"out_dir": str(tmp_path / "my out"), "resume": True}))
    assert numbers(tmp_path / "my out") == evaluated


@pytest.mark.slow
def test_a_process_that_gets_sigterm_says_how_to_continue_and_does(folder, tmp_path, evaluated):
    given = [f"--model={EXPORT}", "--attacks=pgd", "--batch_size=40", "--pgd_steps=2", "--num_examples=100"]
    process = command.start("advtf.evaluate", folder, *given, f"--out_dir={tmp_path}/out")
    printed = iter(process.stdout.readline, "")
    assert next(line for line in printed if line.startswith("clean"))
    process.send_signal(signal.SIGTERM)
    code, out, error = command.finish(process)
    hint = f"python -m advtf.evaluate --out_dir={tmp_path}/out --resume"
    assert (code, error) == (143, "") and f"Interrupted by SIGTERM. Continue with: {hint}\n" in out
    code, _, error = command.run("advtf.evaluate", folder, f"--out_dir={tmp_path}/out", "--resume")
    assert (code, error) == (0, "") and numbers(tmp_path / "out") == evaluated


def test_an_evaluation_goes_on_with_a_classifier_that_was_moved_and_with_no_other(
    inside, tmp_path, evaluated
):
    model = shutil.copytree(EXPORT, tmp_path / "digits-run" / "last")
    with crashing(ResultCache, "put", 2), pytest.raises(Crash):
        evaluation_run.execute(*evaluation(tmp_path / "out", model=str(model)))
    resumed = {"out_dir": str(tmp_path / "out"), "resume": True}
    other = shutil.copytree(model, tmp_path / "other")
    (other / "variables" / "variables.index").write_bytes(b"other")
    moved = model.parent.rename(tmp_path / "moved") / "last"
    with pytest.raises(evaluation_run.UsageError, match="If it was moved, say where to with --model"):
        evaluation_run.plan({}, resumed)
    with pytest.raises(evaluation_run.UsageError, match="which has other weights"):
        evaluation_run.plan({}, resumed | {"model": str(other)})
    evaluation_run.execute(*evaluation_run.plan({}, resumed | {"model": str(moved)}))
    found = numbers(tmp_path / "out")
    assert found.pop("path") == str(moved) and found.pop("model") == "moved/last"
    assert found.items() <= evaluated.items()


@pytest.mark.parametrize("code", STOPS)
def test_an_analysis_that_is_stopped_says_how_to_continue_and_does(
    inside, tmp_path, monkeypatch, code, capsys
):
    happening, words = STOPS[code]
    first = register(monkeypatch, "first", models=1)
    register(monkeypatch, "second", models=1)
    given = {"model": EXPORT, "study": "first,second", "num_examples": 30}
    planned = analysis_run.plan(given, {"out_dir": str(tmp_path / "out")})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analyze.commands, "given_flags", lambda *_: {})
        patch.setattr(analyze.analysis_run, "plan", lambda *_: planned)
        with crashing(StudyContext, "write_json", 2, happening), pytest.raises(SystemExit) as stop:
            analyze.main([])
    printed = capsys.readouterr()
    line = printed.err if code == 1 else printed.out.splitlines()[-1]
    assert stop.value.code == code and words in line
    assert f"python -m advtf.analyze --out_dir={tmp_path}/out --resume" in line
    assert "Kept: what is finished of first." in line or code != 1
    analyze._run(*analysis_run.plan({}, {"out_dir": str(tmp_path / "out"), "resume": True}))
    assert len(first.contexts) == 1 and analysis_run.AnalysisDirectory(tmp_path / "out").state() == "finished"


# Exports and files


@pytest.mark.parametrize(("call", "earlier"), [(1, False), (8, True)])
def test_an_export_on_a_full_disk_leaves_what_was_there(tmp_path, call, earlier):
    path = tmp_path / "best"
    if earlier:
        export_classifier(network(), path, sample=batch())
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with (
        crashing(os, "fsync", call, no_room),
        pytest.raises(DiskFull, match=f"must have room for {path}. Rec"),
    ):
        export_classifier(network(3), path, sample=batch(), overwrite=True)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert list(tmp_path.iterdir()) == [path] * earlier


def test_a_device_that_is_full(tmp_path):
    for name in ("metrics.jsonl", ".a.json.partial", ".lock"):
        (tmp_path / name).symlink_to("/dev/full")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DiskFull, match=r"room for .*/metrics\.jsonl\. Received: No space left on device"):
        jsonl.append(tmp_path / "metrics.jsonl", {"epoch": 1})
    with pytest.raises(DiskFull, match=r"room for .*/a\.json\. Received: No space left on device"):
        files.write_json(tmp_path / "a.json", {"a": 1})
    assert (tmp_path / "a.json").read_text() == "{}" and leftovers(tmp_path) == []


def test_what_no_run_catches_ends_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop, exit_on_usage_error():
        no_room()
    assert stop.value.code == 1
    line = (
        "error: the disk must have room for the output. Received: No space left on device. Free some space,"
    )
    assert capsys.readouterr().err == f"{line} then run the command again.\n"
    with pytest.raises(OSError, match="Permission denied"), exit_on_usage_error():
        raise PermissionError(errno.EACCES, "Permission denied")
