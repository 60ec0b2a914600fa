"""The memory that a training needs at least, by hand-made sums, against that of the machine."""

import contextlib
import json

import pytest

from advtf.data.registry import DATASETS
from advtf.data.sets import load
from advtf.errors import UsageError
from advtf.settings import memory
from advtf.training.memory import gains_from_threads, require_training_memory
from advtf.training.settings import RunOptions, TrainConfig


def require(monkeypatch, available, options=None, **settings):
    monkeypatch.setattr(memory, "machine_memory", lambda: available)
    monkeypatch.setattr("advtf.training.memory.has_gpu", lambda: False)
    require_training_memory(TrainConfig.of(settings), RunOptions.of(options or {}))


def test_the_images_are_counted_by_their_bytes(monkeypatch):
    settings = dict(dataset="cifar10", model="linear", image_size=50, batch_size=1)
    images = 60_000 * 50 * 50 * 3
    require(monkeypatch, images, **settings)
    with pytest.raises(UsageError, match=r"dataset=cifar10, image_size=50.* 0\.45 GB"):
        require(monkeypatch, images - 1, **settings)


def test_a_step_is_counted_by_its_weights_and_activations(monkeypatch):
    settings = dict(model="mlp", width=100, batch_size=1)
    hidden = 16 * 100  # units in each of two layers, between 8×8 pixels and 10 classes
    parameters = 64 * hidden + hidden + hidden**2 + hidden + 10 * hidden + 10
    weights = 4 * 3 * parameters  # with gradients and momentum, in float32
    with pytest.raises(UsageError, match=f"model=mlp, width=100, batch_size=1 with {parameters:,} param"):
        require(monkeypatch, weights, **settings)
    require(monkeypatch, weights + 4 * 10 * hidden, **settings)


def test_a_mirrored_batch_is_spread_over_devices_whose_number_is_not_known(monkeypatch):
    settings = dict(dataset="cifar10", batch_size=10_000)
    with pytest.raises(UsageError, match="batch_size=10000 with 2,797,610 parameters"):
        require(monkeypatch, 3 * 10**9, **settings)
    for strategy in ("mirrored", "multi_worker"):
        require(monkeypatch, 3 * 10**9, strategy=strategy, **settings)


def test_a_data_set_that_is_not_known_counts_by_the_smallest_image(monkeypatch):
    require(monkeypatch, 10**9, dataset="my_own", batch_size=10)
    with pytest.raises(UsageError, match="dataset=my_own"):
        require(monkeypatch, 10**9, dataset="my_own", batch_size=20_000_000)


def test_every_preset_fits_into_sixteen_gigabytes(monkeypatch):
    for dataset, entry in DATASETS.items():
        for model in entry.shown:
            require(monkeypatch, 16 * 10**9, dataset=dataset, model=model)


def test_the_entry_of_digits_is_what_the_set_has():
    data, entry = load("digits"), DATASETS["digits"]
    assert data.input_shape == entry.input_shape and data.num_classes == entry.num_classes
    assert len(data.train) + len(data.test) == entry.examples  # nothing is held out


def test_on_a_gpu_the_weights_count_and_the_activations_do_not(monkeypatch):
    settings = dict(model="wide_resnet", dataset="cifar10", batch_size=512)
    with pytest.raises(UsageError, match="a training step must fit into memory"):
        require(monkeypatch, 16 * 10**9, **settings)
    monkeypatch.setattr("advtf.training.memory.has_gpu", lambda: True)
    require_training_memory(TrainConfig.of(settings), RunOptions())
    with pytest.raises(UsageError, match="width=100000"):
        require_training_memory(TrainConfig.of({"model": "resnet18", "width": 100_000}), RunOptions())


def test_images_that_stay_on_the_disk_do_not_count(monkeypatch, tmp_path):
    settings = dict(dataset="imagenet2012", model="linear", batch_size=1)
    step = 4 * 3 * (224 * 224 * 3 + 1) * 1000 + 4 * (2 * 224 * 224 * 3 + 1000)  # images and flattened ones
    here = {"data_dir": str(tmp_path)}
    require(monkeypatch, step, {"images": "disk"}, **settings)
    with pytest.raises(UsageError, match="a training step must fit"):
        require(monkeypatch, step - 1, {"images": "disk"}, **settings)
    for place in ("auto", "memory"):
        with pytest.raises(UsageError, match=r"at least 200 GB\. .* with file_format=array_record\."):
            require(monkeypatch, 200_376_000_000 - 10**7, here | {"images": place}, **settings)
    # Where the data are prepared, their description tells that they can stay on the disk.
    folder = tmp_path / "imagenet2012" / "5.1.0"
    folder.mkdir(parents=True)
    for kind, fits in (("array_record", True), ("tfrecord", False)):
        (folder / "dataset_info.json").write_text(json.dumps({"fileFormat": kind}))
        with contextlib.nullcontext() if fits else pytest.raises(UsageError, match="200 GB"):
            require(monkeypatch, step, here, **settings)


@pytest.mark.parametrize(
    "settings, large",
    [
        ({}, False),  # 64 digits of 8×8 pixels
        ({"batch_size": 640}, True),
        ({"image_size": 32}, True),
        ({"dataset": "mnist", "width": 1}, True),
        ({"dataset": "mnist", "width": 1, "batch_size": 1}, False),
        ({"dataset": "somebodys", "model": "lenet", "batch_size": 1}, True),  # nobody knows its images yet
    ],
)
def test_small_steps_do_not_gain_from_threads(settings, large):
    assert gains_from_threads(TrainConfig.of(settings)) is large
