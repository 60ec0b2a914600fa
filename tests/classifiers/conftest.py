"""A small network and its export, which the tests of exporting and of loading share."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.export import batch, network

from advtf.classifiers.export import export_classifier


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved_models") / "best"
    metadata = {"epoch": np.int64(7), "accuracies": {"clean": np.float32(0.5), "robust": float("nan")}}
    return export_classifier(model, path, metadata=metadata, sample=batch(3))


@pytest.fixture
def copy(exported, tmp_path):
    return Path(shutil.copytree(exported, tmp_path / "copy"))
