"""What is known of prepared data before TensorFlow starts: versions, folders, sizes, and what is missing."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from advtf.data import prepared
from advtf.data.registry import DATASETS, require_available, require_known
from advtf.data.sets import load
from advtf.errors import UsageError

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    features = {
        "image": tfds.features.Image(shape=(4, 4, 1)),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    example = {"image": np.zeros((4, 4, 1), np.uint8), "label": 0}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="mnist",
        version="3.0.1",
        features=tfds.features.FeaturesDict(features),
        data_dir=str(folder),
        split_datasets={"train": [(i, example) for i in range(40)], "test": [(0, example)]},
    )
    return folder


@pytest.fixture
def folder(original, tmp_path, monkeypatch):
    """A copy of prepared data, where nobody may ask the network."""
    monkeypatch.setattr(prepared, "reachable", lambda url: pytest.fail("prepared data need no network"))
    return shutil.copytree(original, tmp_path / "data")


def refused(match, *given, call=require_available):
    with pytest.raises(UsageError, match=match) as caught:
        call(*given)
    assert "\n" not in str(caught.value)


def test_prepared_data_are_found_with_their_version_and_counted(folder):
    for name in ("mnist", "mnist:3.0.1", "mnist:3.*.*"):
        require_available(name, str(folder), batch_size=40)
        assert prepared.examples(name, str(folder), "train") == 40
    assert prepared.examples("mnist", str(folder), "validation") is None
    refused(r"between 1 and the 40 examples .*batch_size=41", "mnist", str(folder), 41)
    refused(r"between 1 and the 36 examples", "mnist", str(folder), 37, 0.1)
    refused(r"between 1 and the 36 training examples .*=37", "mnist", str(folder), 1, 0.1, 37)
    refused(r"between 1 and the 20 examples .*batch_size=21", "mnist", str(folder), 21, 0.1, 20)
    require_available("mnist", str(folder), 36, 0.1, 36)
    train = load("mnist", str(folder), val_fraction=0.1).train
    assert len(train) == 36


def test_the_digits_are_counted_without_being_read():
    assert DATASETS["digits"].training_examples == len(load("digits").train)
    refused("the 1295 examples", "digits", "/nowhere", 1296, 0.1)


def test_a_version_is_three_numbers_that_are_prepared_or_known(folder):
    for name in ("mnist:abc", "mnist:3", "mnist:3.0", "mnist:", "mnist:3.0.1.2"):
        refused("must be three numbers", name, str(folder), call=require_known)
    refused(r"Received: dataset=mnist:9\.9\.9; prepared: 3\.0\.1\. Leave", "mnist:9.9.9", str(folder))


DAMAGES = {
    "description": (lambda files: (files / prepared.INFO).write_text("{ no"), "cannot be read"),
    "no description": (lambda files: (files / prepared.INFO).unlink(), "it has no dataset_info.json"),
    "shard": (lambda files: next(files.glob("*train*")).unlink(), "split train have 0 bytes of at least"),
    "bytes": (lambda files: os.truncate(next(files.glob("*train*")), 99), "split train have 99 bytes"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_with_its_folder(folder, damage):
    harm, message = DAMAGES[damage]
    files = folder / "mnist" / "3.0.1"
    harm(files)
    refused(f"Received: {files}: .*{message}.* Remove that folder", "mnist", str(folder))


def test_a_description_of_another_release_is_left_to_tfds(folder):
    file = folder / "mnist" / "3.0.1" / prepared.INFO
    info = json.loads(file.read_text())
    for change in ({"splits": 3}, {"splits": [{}]}, {"fileFormat": "riegeli"}):
        file.write_text(json.dumps(info | change))
        require_available("mnist", str(folder))


def test_a_folder_that_is_none_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    refused(r"data_dir must be a readable folder. Received: .*file \(a file\)", "mnist", str(file))
    refused("file must be a writable folder to prepare", "mnist", str(file / "inside"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as it is for others than root
    refused(r"\(no permission\)", "mnist", str(tmp_path))
    refused("must be a writable folder to prepare", "mnist", str(tmp_path / "new"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_without_the_data_the_network_is_asked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(prepared, "reachable", lambda url: asked.append(url))
    refused(
        f"no prepared data in {tmp_path}. Received: dataset=mnist, and no network", "mnist", str(tmp_path)
    )
    refused("which does not exist", "mnist", str(tmp_path / "new"))
    monkeypatch.setattr(prepared, "reachable", lambda url: True)
    require_available("mnist", str(tmp_path / "new"))
    assert asked == ["https://storage.googleapis.com/"] * 2 and list(tmp_path.iterdir()) == []


def test_the_answer_comes_at_once_and_without_tensorflow(tmp_path):
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    command = [sys.executable, "-m", "advtf.main", "--dataset=mnist", f"--data_dir={tmp_path}"]
    began = time.monotonic()
    done = subprocess.run(
        [*command, "--out_dir=out", "--export_dir=exports"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2 and time.monotonic() - began < 10
    assert (
        done.stderr.startswith("error: the prepared data must be complete") and done.stderr.count("\n") == 1
    )
    assert "device" not in done.stdout and [entry.name for entry in tmp_path.iterdir()] == ["mnist"]
