"""What becomes of exports where runs are replaced, continued, copied and moved; without TensorFlow."""

import json
import os
import shutil

import pytest

from advtf.classifiers.manifest import make_manifest, write_manifest
from advtf.errors import UsageError
from advtf.storage.report_files import SIGN
from advtf.training.directory import TrainingDirectory
from advtf.training.settings import RunOptions, TrainConfig

NAMES = ("last", "best", "period1")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A working directory."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def tree(path):
    """Every path below `path` with its content."""
    return {
        str(p.relative_to(path)): p.read_bytes() if p.is_file() else None for p in sorted(path.rglob("*"))
    }


def planned(path, export_dir=None, *, typed=True, resume=False, overwrite=False):
    return TrainingDirectory(path).exporting(
        export_dir, NAMES, typed=typed and export_dir is not None, resume=resume, overwrite=overwrite
    )


def export(folder, run=None):
    """Writes the files of an export into `folder`, as made by `run`."""
    (folder / "variables").mkdir(parents=True)
    for name in ("saved_model.pb", "fingerprint.pb", "variables/variables.index"):
        (folder / name).write_bytes(os.urandom(8))
    metadata = {"run": run.identify().record(folder)} if run else {}
    write_manifest(folder, make_manifest(folder.name, "classifier", (8, 8, 1), 10, metadata))


def trained(path, export_dir=None, names=NAMES, finished=True, overwrite=False):
    """A run with exports, as `advtf.main` leaves it."""
    run = planned(path, export_dir, overwrite=overwrite)
    with run.locked(overwrite=overwrite):
        run.write_config(TrainConfig.of({}), RunOptions(), exports=run.way_to_exports())
        for name in names:
            export(run.exports / name, run)
        if finished:
            paths = {name: str((run.exports / name).absolute()) for name in names}
            run.results.write_text(json.dumps({"exports": paths}))
    return run


def overwrite(path, export_dir=None):
    run = planned(path, export_dir, overwrite=True)
    with run.locked(overwrite=True):
        pass
    return run


def test_overwriting_a_run_removes_its_exports_and_nothing_else(project):
    run = trained(project / "runs" / "x")
    assert run.exports == project.joinpath("saved_models", "x").relative_to(project)
    (run.exports / "notes.txt").write_text("mine")
    export(run.exports / "other")  # by the library, or of another program
    shutil.copytree(run.exports / "last", run.exports / "last-kept")
    overwrite(run.path)
    assert {path.name for path in run.exports.iterdir()} == {"notes.txt", "other", "last-kept"}
    assert [path.name for path in run.path.iterdir()] == [".lock"]


@pytest.mark.parametrize("finished", [True, False])
def test_overwriting_a_copy_leaves_the_exports_of_the_original(project, finished):
    original = trained(project / "runs" / "x", finished=finished)
    before = tree(project)
    shutil.copytree(original.path, project / "runs" / "y")
    assert overwrite(project / "runs" / "y").exports.name == "y"
    shutil.rmtree(project / "runs" / "y")
    assert tree(project) == before
    overwrite(original.path)
    assert not list(original.exports.iterdir())


@pytest.mark.parametrize("switch", ["overwrite", "resume"])
def test_a_copy_is_not_given_the_exports_of_the_original(project, switch):
    original = trained(project / "runs" / "x", "mine", finished=False)
    shutil.copytree(original.path, project / "runs" / "y")
    before = tree(project)
    with pytest.raises(
        UsageError, match=r"mine/last, an export of the run in runs/x. Choose another --export_dir"
    ):
        planned(project / "runs" / "y", "mine", typed=switch == "overwrite", **{switch: True})
    assert tree(project) == before
    assert planned(project / "runs" / "x", "mine", typed=False, resume=True).exports.name == "mine"


def test_a_run_that_was_moved_is_continued_and_replaced(project):
    run = trained(project / "runs" / "x", "mine", finished=False)
    moved = run.path.rename(project / "y")
    assert planned(moved, "mine", typed=False, resume=True).exports.name == "mine"
    overwrite(moved, "mine")
    assert not list(run.exports.iterdir())


@pytest.mark.parametrize("transfer", [shutil.copytree, os.rename])
@pytest.mark.parametrize("export_dir", [None, "absolute"])
def test_a_project_that_was_moved_or_copied_finds_its_own_exports(project, monkeypatch, transfer, export_dir):
    given = str(project / "mine") if export_dir else None
    trained(project / "runs" / "x", given, finished=False)
    other = project.with_name("other")
    transfer(project, other)
    before = tree(project) if project.exists() else None
    monkeypatch.chdir("/")
    run = planned(other / "runs" / "x", given, typed=False, resume=True)
    exports = other / ("mine" if export_dir else "saved_models/x")
    assert os.path.realpath(run.exports) == str(exports)
    monkeypatch.chdir(other)
    overwrite(other / "runs" / "x", str(exports) if export_dir else None)
    assert not list(exports.iterdir())
    assert before == (tree(project) if project.exists() else None)


def test_exports_of_another_run_are_never_replaced(project):
    trained(project / "runs" / "x")
    shutil.rmtree(project / "runs" / "x")  # also where that run is gone
    before = tree(project)
    for out_dir, export_dir in (("runs/x", None), ("runs/new", "saved_models/x")):
        with pytest.raises(UsageError, match="saved_models/x/last, an export of the run in runs/x"):
            planned(project / out_dir, export_dir, overwrite=True)
        with pytest.raises(UsageError, match="export_dir must be free"):
            planned(project / out_dir, export_dir)
    assert tree(project) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file", "which is not an export"),
        ("empty", "which is not an export"),
        ("link", "which is not an export"),
        ("added", "holds notes.txt besides an export"),
        ("damaged", "whose manifest.json is damaged"),
        ("no id", "or made before runs had ids"),
    ],
)
@pytest.mark.parametrize("switch", ["overwrite", "resume"])
def test_what_the_run_has_not_made_is_not_replaced(project, content, message, switch):
    run = trained(project / "runs" / "x", names=["best"])
    last = run.exports / "last"
    if content == "file":
        last.write_text("mine")
    elif content == "empty":
        last.mkdir()
    elif content == "link":
        export(project / "elsewhere", run)
        last.symlink_to(project / "elsewhere")
    else:
        export(last, None if content == "no id" else run)
        if content == "added":
            (last / "notes.txt").write_text("mine")
        if content == "damaged":
            (last / "manifest.json").write_text("{")
    before = tree(project)
    with pytest.raises(UsageError, match=f"saved_models/x/last, .*{message}"):
        planned(run.path, **{switch: True})
    assert tree(project) == before


def test_an_export_with_files_of_others_stays_where_a_run_is_replaced_elsewhere(project):
    run = trained(project / "runs" / "x", "first")
    (run.exports / "best" / "notes.txt").write_text("mine")
    overwrite(run.path, "second")
    assert [path.name for path in run.exports.iterdir()] == ["best"]
    assert (run.exports / "best" / "saved_model.pb").exists()


def test_a_model_card_goes_with_its_export_unless_somebody_else_has_written_it(project):
    run = trained(project / "runs" / "x", "first")
    (run.exports / "last" / "model_card.html").write_text(f'{SIGN}0.1.0">')
    (run.exports / "best" / "model_card.html").write_text("mine")
    overwrite(run.path, "second")
    assert [path.name for path in run.exports.iterdir()] == ["best"]


def test_a_removal_that_is_killed_leaves_no_half_export(project, monkeypatch):
    run = trained(project / "runs" / "x")
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        overwrite(run.path)
    monkeypatch.undo()
    monkeypatch.chdir(project)
    assert run.state() == "finished" and run.identity()
    shown = [path.name for path in run.exports.iterdir() if not path.name.startswith(".")]
    assert all((run.exports / name / "saved_model.pb").exists() for name in shown)
    overwrite(run.path)


def test_runs_older_than_ids_are_continued_and_their_exports_are_never_removed(project):
    run = trained(project / "runs" / "x", names=["last"], finished=False)
    config = json.loads(run.config.read_text())
    for name in ("id", "exports"):
        del config[name]
    run.config.write_text(json.dumps(config))
    shutil.rmtree(run.exports / "last")
    export(run.exports / "earlier")
    assert run.identity() is None
    number = planned(run.path, resume=True).identify().id
    assert TrainingDirectory(run.path).identity().id == number
    assert json.loads(run.config.read_text()) == {**config, "id": number}
    run.config.write_text(json.dumps(config))
    before = tree(run.exports)
    overwrite(run.path)
    assert tree(run.exports) == before and not run.config.exists()


def test_a_run_that_continues_keeps_its_id_and_one_that_is_replaced_gets_another(project):
    run = trained(project / "runs" / "x", finished=False)
    number = run.identity().id
    with run.locked(resume=True):
        run.write_config(TrainConfig.of({}), RunOptions())
        assert run.identity().id == number == run.identify().id
    assert trained(run.path, overwrite=True).identity().id != number


@pytest.mark.parametrize(
    ("out_dir", "export_dir"),
    [
        ("x", "x"),
        ("x", "./x/../x"),
        ("x", "link"),
        ("link", "x"),
        ("deep/x", "deep"),
        ("x", "x/checkpoints"),
        ("x", "x/figures/deep"),
        ("x", "x/config.json"),
        ("x", "."),
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_exports_in_the_way_of_the_run_are_refused(project, out_dir, export_dir, absolute):
    (project / "link").symlink_to(project / "x")
    before = tree(project)
    with pytest.raises(UsageError, match="apart from the files of the run"):
        planned(project / out_dir if absolute else out_dir, export_dir)
    assert tree(project) == before


def test_exports_may_lie_in_the_run_directory_beside_its_files(project):
    run = trained(project / "runs" / "x", "runs/x/exports")
    overwrite(run.path, "elsewhere")
    assert set(tree(run.path)) == {".lock", "exports"}


@pytest.mark.parametrize("place", ["file/deep", "/proc/advtf", "n" * 300, "a/" + "n" * 300, "/dev/null"])
def test_a_folder_that_cannot_be_made_is_refused_and_leaves_nothing(project, place):
    (project / "file").write_text("mine")
    before = tree(project)
    with pytest.raises(UsageError, match=f"export_dir must be a .* Received: {place}"):
        planned(project / "run", place)
    with pytest.raises(UsageError, match=f"out_dir must be a .* Received: {place}"):
        TrainingDirectory.choose(place, "", resume=False, overwrite=False)
    assert tree(project) == before


def test_the_exports_of_a_configuration_are_named_before_it_is_trained():
    averaged = dict(periods="none", averaging="ema", select_on="test")
    for settings, names in (
        ({}, ["last", "best", "period1", "period2", "period3", "ensemble"]),
        ({"periods": "none"}, ["last", "best"]),
        ({"periods": "none", "val_fraction": 0}, ["last"]),
        (averaged, ["last", "best", "ema_last", "ema_best"]),
    ):
        assert TrainConfig.of(settings).exported == names
