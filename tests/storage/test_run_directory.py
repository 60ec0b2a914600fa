"""Run directories: what is recognised, chosen, locked and removed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from advtf.errors import UsageError
from advtf.evaluation.run import EvaluationDirectory
from advtf.storage.report_files import SIGN
from advtf.studies.run import AnalysisDirectory
from advtf.training.directory import TrainingDirectory
from advtf.training.settings import RunOptions, TrainConfig

KINDS = {each.kind: each for each in (TrainingDirectory, EvaluationDirectory, AnalysisDirectory)}
OURS = {"versions": {"advtf": "0.1.0"}}
HOLDER = """
import sys
from pathlib import Path
from advtf.training.directory import TrainingDirectory
with TrainingDirectory(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def make(path, state):
    """Fills `path` so that it is in `state`; returns it."""
    if state == "missing":
        return path
    path.mkdir(parents=True)
    if state in ("finished", "unfinished"):
        (path / "config.json").write_text(json.dumps(OURS))
        (path / "metrics.jsonl").write_text("{}\n")
        (path / "checkpoints").mkdir()
        (path / "checkpoints" / "step-1.npz").write_bytes(b"x")
    if state == "finished":
        (path / "evaluation.json").write_text('{"results": {}}')
    if state == "foreign":
        (path / "thesis.tex").write_text("years of work")
    if state == "locked":
        (path / ".lock").write_text("1")
    return path


def tree(path):
    """Every file below `path` with its content, and every folder."""
    found = sorted(Path(path).rglob("*"))
    return {str(p.relative_to(path)): p.read_bytes() if p.is_file() else None for p in found}


def pick(path, default="runs/x", *, resume=False, overwrite=False, taken=lambda _: False):
    out_dir = None if path is None else str(path)
    return TrainingDirectory.choose(out_dir, str(default), resume=resume, overwrite=overwrite, taken=taken)


# States


@pytest.mark.parametrize(
    ("content", "state"),
    [
        ("missing", "new"),
        ("empty", "new"),
        ("locked", "new"),
        ("unfinished", "unfinished"),
        ("finished", "finished"),
        ("foreign", "foreign"),
    ],
)
def test_states(tmp_path, content, state):
    assert TrainingDirectory(make(tmp_path / "run", content)).state() == state


@pytest.mark.parametrize(
    "config", ["", "[]", "{}", '{"versions": []}', '{"versions": {"other": "1"}}', "\xff"]
)
def test_a_config_of_something_else_is_foreign(tmp_path, config):
    (tmp_path / "config.json").write_bytes(config.encode("latin-1"))
    assert TrainingDirectory(tmp_path).state() == "foreign"


def test_a_run_killed_in_its_first_write_is_still_new(tmp_path):
    make(tmp_path / "run", "locked")
    (tmp_path / "run" / ".config.json.partial").write_text('{"vers')
    assert TrainingDirectory(tmp_path / "run").state() == "new"


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UsageError, match="readable directory"):
            pick(path)


# Choice


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("unfinished", {}, r"holds a run \(unfinished\). Add --overwrite to replace it or --resume"),
        ("finished", {}, "--overwrite to replace it.$"),
        ("foreign", {}, "holds other files"),
        ("foreign", {"overwrite": True}, "holds other files"),
        (
            "foreign",
            {"resume": True},
            "which holds other files and no config.json. Give the --out_dir of the run",
        ),
        (
            "missing",
            {"resume": True},
            "run of advtf.main and its config.json. .*which does not exist. Give the --out_dir of the run",
        ),
        ("locked", {"resume": True}, "which is empty. Give the --out_dir of the run; without --resume a new"),
    ],
)
def test_refusals_name_the_folder_and_write_nothing(tmp_path, content, flags, message):
    path = make(tmp_path / "run", content)
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=message) as refused:
        pick(path, **flags)
    assert str(path) in str(refused.value) and tree(tmp_path) == before


def test_what_cannot_be_resumed_tells_of_the_runs_inside(tmp_path):
    for name, state in (("b", "unfinished"), ("a", "finished"), ("thesis", "foreign")):
        make(tmp_path / name, state)
    make(tmp_path / "x", "unfinished").joinpath("config.json").write_text(
        json.dumps(OURS | {"kind": EvaluationDirectory.kind})
    )
    with pytest.raises(UsageError, match=rf"Runs inside: {tmp_path}/a, {tmp_path}/b\. Give"):
        pick(tmp_path, resume=True)


@pytest.mark.parametrize(
    ("content", "flags"),
    [
        ("missing", {}),
        ("empty", {}),
        ("locked", {}),
        ("missing", {"overwrite": True}),
        ("unfinished", {"overwrite": True}),
        ("finished", {"overwrite": True}),
        ("unfinished", {"resume": True}),
        ("finished", {"resume": True}),
    ],
)
def test_an_explicit_folder_is_taken_and_nothing_written(tmp_path, content, flags):
    path = make(tmp_path / "run", content)
    before = tree(tmp_path)
    assert pick(path, **flags).path == path and tree(tmp_path) == before


def test_the_default_folder_gets_the_next_free_number(tmp_path):
    default = tmp_path / "runs" / "x"
    assert pick(None, default).path == default
    make(default, "finished")
    make(default.with_name("x-2"), "foreign")
    make(default.with_name("x-3"), "unfinished")
    assert pick(None, default).path.name == "x-4"
    assert pick(None, default, taken=lambda path: path.name == "x-4").path.name == "x-5"
    assert pick(None, default, overwrite=True).path == default
    assert pick(None, default, resume=True).path.name == "x-3"


def test_resuming_the_default_needs_a_run(tmp_path):
    with pytest.raises(UsageError, match="--resume requires a run"):
        pick(None, tmp_path / "x", resume=True)
    make(tmp_path / "x", "foreign")
    with pytest.raises(UsageError, match="--resume requires a run"):
        pick(None, tmp_path / "x", resume=True)


# Lock and removal


def test_a_second_process_is_refused_until_the_first_ends(tmp_path):
    run = TrainingDirectory(tmp_path / "deep" / "run")
    command = [sys.executable, "-c", HOLDER, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        before = tree(tmp_path)
        for overwrite in (False, True):
            with (
                pytest.raises(UsageError, match=f"used by process {holder.pid}. "),
                run.locked(overwrite=overwrite),
            ):
                pytest.fail("two processes in one directory")
        assert tree(tmp_path) == before
        holder.kill()
    with run.locked(resume=True):
        assert (run.path / ".lock").read_text() == str(os.getpid())
    with run.locked(resume=True):  # and again after an orderly end
        pass


def test_overwriting_removes_the_run_and_nothing_else(tmp_path):
    run = TrainingDirectory(make(tmp_path / "run", "finished"))
    for name in ("snapshots", "tensorboard", "figures"):
        (run.path / name / "deeper").mkdir(parents=True)
    run.examples.write_bytes(b"x")
    (run.path / "notes.txt").write_text("mine")
    (run.path / "plots").mkdir()
    (tmp_path / "neighbour").write_text("untouched")
    with run.locked(overwrite=True):
        assert set(tree(tmp_path)) == {"run", "run/.lock", "run/notes.txt", "run/plots", "neighbour"}


def test_without_overwriting_nothing_is_removed(tmp_path):
    run = TrainingDirectory(make(tmp_path / "run", "unfinished"))
    before = tree(run.path)
    with run.locked(resume=True):
        pass
    assert {name: kept for name, kept in tree(run.path).items() if name != ".lock"} == before


def test_a_run_that_appeared_meanwhile_is_not_touched(tmp_path):
    run = pick(tmp_path / "run")
    before = tree(make(run.path, "finished"))
    with pytest.raises(UsageError, match="in the meantime"), run.locked():
        pytest.fail("the other run would be continued")
    assert {name: kept for name, kept in tree(run.path).items() if name != ".lock"} == before


def test_a_run_that_cannot_be_removed_is_an_error_not_a_continuation(tmp_path):
    run = TrainingDirectory(make(tmp_path / "run", "unfinished"))
    run.checkpoints.rename(tmp_path / "big disk")
    run.checkpoints.symlink_to(tmp_path / "big disk")
    with pytest.raises(UsageError, match="must be removable"), run.locked(overwrite=True):
        pytest.fail("old checkpoints would be continued from")
    assert run.state() == "unfinished" and list((tmp_path / "big disk").iterdir())


def test_a_removal_killed_half_way_leaves_a_run_that_can_be_overwritten(tmp_path, monkeypatch):
    run = TrainingDirectory(make(tmp_path / "run", "finished"))
    removed = []

    def unlink_once(path, missing_ok=False):
        if removed:
            raise KeyboardInterrupt
        removed.append(path.name)
        os.unlink(path)

    monkeypatch.setattr(Path, "unlink", unlink_once)
    with pytest.raises(KeyboardInterrupt), run.locked(overwrite=True):
        pass
    monkeypatch.undo()
    assert removed == ["evaluation.json"] and run.state() == "unfinished"
    assert pick(run.path, overwrite=True).path == run.path


@pytest.mark.parametrize("path", ["/proc/advtf-run", "/dev/null/run"])
def test_a_place_that_cannot_be_written_is_named(path):
    with (
        pytest.raises(UsageError, match=f"out_dir must be writable. Received: {path}"),
        TrainingDirectory(Path(path)).locked(),
    ):
        pass


# Kinds


def made(path, kind, *, finished=True):
    """A run of this kind, as its command leaves it."""
    run = KINDS[kind](path)
    path.mkdir()
    for name in (*run.own_files, "notes.txt"):
        (path / name).write_text("{}")
    for name in run.own_folders:
        (path / name / "deeper").mkdir(parents=True)
    run.write_config(TrainConfig.of({}), RunOptions())
    run.results.write_text(json.dumps({run.own_result: {}}))
    if not finished:
        run.results.unlink()
    return run


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("finished", [True, False])
def test_each_command_knows_its_own_runs_and_leaves_the_others_alone(tmp_path, kind, finished):
    run = made(tmp_path / "run", kind, finished=finished)
    before = tree(tmp_path)
    assert run.found() == kind and run.state() == ("finished" if finished else "unfinished")
    for other in KINDS.keys() - {kind}:
        assert KINDS[other](run.path).state() == "other"
        for flags in ({}, {"overwrite": True}, {"resume": True}):
            switches = {"resume": False, "overwrite": False, **flags}
            with pytest.raises(UsageError, match=f"must not hold an? {kind}. Received: {run.path}"):
                KINDS[other].choose(str(run.path), "", **switches)
        with pytest.raises(UsageError, match="requires a run"):
            KINDS[other].choose(None, str(run.path), resume=True, overwrite=False)
        assert KINDS[other].choose(None, str(run.path), resume=False, overwrite=False).path.name == "run-2"
    assert KINDS[kind].choose(str(run.path), "", resume=False, overwrite=True) == run
    assert KINDS[kind].choose(None, str(run.path), resume=True, overwrite=False) == run
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
def test_overwriting_removes_what_its_command_wrote(tmp_path, kind):
    run = made(tmp_path / "run", kind)
    with run.locked(overwrite=True):
        assert {path.name for path in run.path.iterdir()} == {".lock", "notes.txt"}


def test_a_run_of_no_kind_is_a_training(tmp_path):
    assert TrainingDirectory(make(tmp_path / "run", "unfinished")).found() == "training"


# The report on a run


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_goes_with_its_run_and_a_foreign_page_stays(tmp_path, kind):
    own, foreign = (make(tmp_path / name, "finished") for name in ("own", "foreign"))
    (own / "report.html").write_text(f'{SIGN}0.1.0">')
    (foreign / "report.html").write_text("years of work")
    for folder in (own, foreign):
        KINDS[kind](folder).remove_run()
    assert not (own / "report.html").exists()
    assert (foreign / "report.html").read_text() == "years of work"
