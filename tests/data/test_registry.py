"""The names of data sets that are known without reading or importing anything."""

import subprocess
import sys

import pytest

from advtf.data.registry import require_known
from advtf.errors import UsageError

IMPORTED = """
import sys
from advtf.data.registry import tfds_names
names = tfds_names()
assert "tensorflow_datasets" not in sys.modules
import tensorflow_datasets as tfds
known = set(tfds.list_builders(with_community_datasets=False))
assert tfds_names() == known
print(len(names & known))
for name in known - names:
    print(name, sys.modules[tfds.core.registered._DATASET_REGISTRY[name].__module__].__name__)
"""


def test_the_names_of_tfds_are_read_from_its_files_without_importing_it():
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, *missing = done.stdout.splitlines()
    assert int(found) > 150 and len(missing) > 100
    assert not [line for line in missing if "datasets.image_classification." in line]


@pytest.mark.parametrize("name", ["imagenette", "cifar10_corrupted/fog_3", "mnist:3.0.1", "emnist", "lsun"])
def test_sets_of_tfds_are_known(name, tmp_path):
    require_known(name, str(tmp_path))


def test_prepared_sets_are_known(tmp_path):
    (tmp_path / "my_own").mkdir()
    require_known("my_own", str(tmp_path))
    with pytest.raises(UsageError, match=r"Received: dataset=my_owm"):
        require_known("my_owm", str(tmp_path))
