"""Which run has made an export, after runs and exports were moved and copied."""

import os
import shutil

import pytest

from advtf.storage.identity import Identity, new_id


@pytest.fixture
def project(tmp_path):
    """A run and an export of it, in a folder; returns the folder and the export's record."""
    for name in ("runs/x", "saved/x/last"):
        (tmp_path / "project" / name).mkdir(parents=True)
    run = Identity(new_id(), tmp_path / "project" / "runs" / "x")
    return tmp_path / "project", run.record(tmp_path / "project" / "saved" / "x" / "last"), run.id


def owns(record, number, run, export):
    return Identity(number, run).has_made(export, record)


def test_ids_are_128_bits_and_never_the_same():
    numbers = {new_id() for _ in range(100)}
    assert len(numbers) == 100 and all(len(bytes.fromhex(number)) == 16 for number in numbers)


def test_a_record_names_the_way_to_the_run_and_not_its_place(project):
    folder, record, number = project
    assert record == {
        "id": number,
        "directory": "../../../runs/x",
        "inode": (folder / "runs/x").stat().st_ino,
    }


def test_a_run_owns_what_it_made_and_what_has_its_id_only(project):
    folder, record, number = project
    run, export = folder / "runs" / "x", folder / "saved" / "x" / "last"
    assert owns(record, number, run, export)
    assert not owns(record, new_id(), run, export)
    for other in (None, [], "x", {}, {"id": number}, {"id": [number]}, {"id": number, "directory": 3}):
        assert not owns(other, number, run, export)


def test_a_copy_of_a_run_owns_nothing_of_the_original(project):
    folder, record, number = project
    export = folder / "saved" / "x" / "last"
    copy = shutil.copytree(folder / "runs" / "x", folder / "runs" / "y")
    assert not owns(record, number, copy, export) and owns(record, number, folder / "runs" / "x", export)
    os.rename(folder / "runs" / "x", folder / "runs" / "z")  # the original moves away; the copy gains nothing
    assert not owns(record, number, copy, export) and owns(record, number, folder / "runs" / "z", export)


def test_a_run_that_was_moved_keeps_what_it_made(project):
    folder, record, number = project
    run = (folder / "runs" / "x").rename(folder / "elsewhere")
    assert owns(record, number, run, folder / "saved" / "x" / "last")


def test_a_run_moved_or_copied_with_its_exports_owns_those_beside_it(project, tmp_path):
    folder, record, number = project
    copy = shutil.copytree(folder, tmp_path / "copy")
    inside = "runs/x", "saved/x/last"
    assert owns(record, number, *(copy / name for name in inside))
    assert owns(record, number, *(folder / name for name in inside))
    assert not owns(record, number, copy / "runs/x", folder / "saved/x/last")
    moved = folder.rename(tmp_path / "moved")
    assert owns(record, number, *(moved / name for name in inside))


def test_symbolic_links_count_as_what_they_lead_to(project, tmp_path):
    folder, _, number = project
    (tmp_path / "scratch" / "deep").mkdir(parents=True)
    link = folder / "linked"
    link.symlink_to(tmp_path / "scratch" / "deep")
    run = Identity(number, folder / "runs" / "x")
    record = run.record(link / "last")
    assert record["directory"] == os.path.relpath(folder / "runs/x", tmp_path / "scratch" / "deep" / "last")
    (link / "last").mkdir()
    record["inode"] = None
    assert run.has_made(link / "last", record)
