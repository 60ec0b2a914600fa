"""A damaged manifest.json: every command that reads it ends in one line that names a remedy."""

import json
import re
from pathlib import Path

import pytest
import tensorflow as tf
from helpers.damage import damaged
from helpers.evaluate import EXPORT, export_digits

from advtf.classifiers import manifest
from advtf.classifiers.classifier import as_classifier
from advtf.classifiers.export import load_classifier
from advtf.errors import UsageError
from advtf.evaluation import run as evaluation_run
from advtf.studies import run as analysis_run

REMEDY = re.compile(
    r"xport the classifier again|[Cc]hoose|[Gg]ive|[Ll]eave|[Uu]se |[Uu]pdate|Did you mean|must be"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export_digits(tmp_path_factory.mktemp("damage"))


@pytest.fixture
def file(folder, monkeypatch):
    """The manifest of an export in the working directory, which is loaded once only."""
    monkeypatch.chdir(folder)
    loaded = tf.saved_model.load(EXPORT)
    monkeypatch.setattr(tf.saved_model, "load", lambda path: loaded)
    path = Path(EXPORT) / "manifest.json"
    before = path.read_text()
    yield path
    path.write_text(before)


def evaluation_plan():
    evaluation_run.plan({}, {"model": EXPORT})


def analysis_plan():
    analysis_run.plan({"model": (EXPORT,), "study": ("density",)}, {})


def evaluation_images():
    _, settings, options = evaluation_run.plan({}, {"model": EXPORT, "num_examples": 4})
    evaluation_run.load(settings, options)


def replacement():
    manifest.is_own(Path(EXPORT), manifest.Identity("a" * 32, Path()))
    manifest.require_own(Path(EXPORT), None)


def refused(reader):
    """Runs a reader; returns the line that it ends in, or None."""
    try:
        reader()
    except UsageError as error:
        return str(error)
    return None


def test_any_entry_of_another_type_ends_in_one_line(file):
    content = json.loads(file.read_text()) | {"run": {"id": "a" * 32, "directory": "../../x", "inode": 7}}
    read = {name: value for name, value in content["config"].items() if name in manifest.TRAINING}
    content |= {"config": read, "versions": {}}
    content |= {name: {} for name in ("images", "test", "converted_from", "settings", "reference_logits")}
    content |= {"network": "LeNet", "dataset": "digits", "epoch": None, "members": ["period1"]}
    file.write_text(json.dumps(content))
    assert manifest.read_manifest(file.parent) == content
    lines = set()
    for path, value, text in damaged(content):
        file.write_text(json.dumps(text))
        for reader in (evaluation_plan, analysis_plan, replacement):
            lines.add(refused(reader))
        if len(path) == 1 and value in ("x", 10**30):
            lines.add(refused(lambda: load_classifier(EXPORT)))
        if path[:1] == ("config",) and value == -1 and set(path[1:]) <= manifest.TRAINING.keys():
            lines |= {refused(evaluation_images), refused(lambda: as_classifier(EXPORT, movable=True))}
    lines.discard(None)
    assert len(lines) > 100
    assert [line for line in lines if "\n" in line or len(line) > 400 or not REMEDY.search(line)] == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "\xff\xfe", "[" * 100_000, '{"format": "advtf-classifier"}']
)
def test_a_file_that_is_no_manifest_ends_in_one_line(file, text):
    file.write_bytes(text.encode("latin-1"))
    for reader in (evaluation_plan, replacement):
        line = refused(reader)
        assert "\n" not in line and len(line) < 400 and REMEDY.search(line)


@pytest.mark.parametrize(
    ("name", "value"),
    [("run", 7), ("images", 1), ("test", [1]), ("network", []), ("epoch", "3"), ("versions", None)],
)
def test_an_entry_that_may_be_missing_has_its_type(file, name, value):
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {name: value}))
    with pytest.raises(UsageError, match=rf"Received: {name}=.*; export the classifier again, or restore"):
        manifest.read_manifest(file.parent)


@pytest.mark.parametrize("name", sorted(manifest.ENTRIES))
def test_an_entry_that_is_missing_is_named(file, name):
    content = json.loads(file.read_text())
    del content[name]
    file.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=f"without {name}; export the classifier again, or restore"):
        load_classifier(EXPORT)


@pytest.mark.parametrize("damage", [{}, {"shape": "8x8"}, {"shape": [8, 8]}, {"shape": [8, 8, "1"]}])
def test_an_input_without_the_three_sides_of_an_image_is_refused(file, damage):
    content = json.loads(file.read_text()) | {"input": damage}
    file.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"must be a whole manifest\. Received: input=\{.*again, or restore"):
        manifest.read_manifest(file.parent)
