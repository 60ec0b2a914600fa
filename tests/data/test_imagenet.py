"""ImageNet-1k as TFDS prepares it: which images are used, and what is made of them."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from helpers import command
from helpers.flagfiles import parsed
from helpers.imagenet import prepare

from advtf.data import sets
from advtf.data.registry import require_available
from advtf.training.memory import require_training_memory
from advtf.training.settings import RunOptions, TrainConfig, describe

RECIPE = "imagenet2012/resnet50/fgsm_r"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("imagenet")
    prepare(place)
    return str(place)


@pytest.fixture(scope="module")
def data(folder):
    return sets.load("imagenet2012", folder, 0.25, images="disk")


def test_the_labelled_validation_images_are_those_of_the_test(folder, data):
    assert data.counts == {"train": 18, "validation": 6, "test": 8}
    assert data.num_classes == 1000 and data.input_shape == (224, 224, 3)
    labels = [
        example["label"] for example in tfds.data_source("imagenet2012", split="validation", data_dir=folder)
    ]
    np.testing.assert_array_equal(data.test.labels, labels)
    test, classes = sets.load_test("imagenet2012", folder)
    assert classes == 1000 and test.sha256() == data.test.sha256()


def test_seven_eighths_of_the_shorter_side_are_resized(folder, data):
    source = tfds.data_source(
        "imagenet2012",
        split="validation",
        data_dir=folder,
        decoders={"image": tfds.decode.SkipDecoding()},
    )
    for row, example in enumerate(source):
        image = tf.io.decode_jpeg(example["image"]).numpy()
        square = round(min(image.shape[:2]) * 7 / 8)
        top, left = ((side - square) // 2 for side in image.shape[:2])
        middle = image[top : top + square, left : left + square].astype(np.float32)
        expected = np.round(tf.image.resize(middle, (224, 224), antialias=True))
        np.testing.assert_array_equal(data.test.images[[row]][0], expected)
    assert row == 7


def test_the_recipe_is_planned_without_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr("advtf.settings.memory.machine_memory", lambda: 4 * 10**9)
    monkeypatch.setattr("advtf.training.memory.has_gpu", lambda: True)
    settings, options = parsed(RECIPE)
    config = TrainConfig.of(settings)
    require_training_memory(config, RunOptions.of(options | {"images": "disk", "data_dir": str(tmp_path)}))
    plan = describe(config, settings)
    assert plan["data"] == "imagenet2012, batch 256, 0.01 held out, crop and flip"
    assert plan["model"] == "resnet50, width 16, relu" and "15 epochs" in plan["epsilon"]
    assert "FGSM-R, linf, ε 4/255" in plan["attack"]


def test_the_recipe_finds_its_images(folder):
    settings, _ = parsed(RECIPE)
    config = TrainConfig.of(settings | {"batch_size": 4})
    require_available(config.dataset, folder, config.batch_size, config.val_fraction)


@pytest.mark.slow
def test_the_recipe_trains_on_images_that_stay_on_the_disk(folder, tmp_path):
    short = [
        "--batch_size=2",
        "--epochs=1",
        "--steps_per_epoch=2",
        "--val_fraction=0.25",
        "--eval_examples=2",
    ]
    command_line = [f"--recipe={RECIPE}", f"--data_dir={folder}", "--images=disk", "--attack_steps=1", *short]
    command_line += ["--out_dir=run", "--export_dir=exports"]
    code, out, error = command.run("advtf.main", tmp_path, *command_line)
    assert (code, error) == (0, "") and "18 train, 6 validation, 8 test, 224×224×3, 1000 classes" in out
    (epoch,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert all(np.isfinite(epoch[name]) for name in ("loss", "val_loss"))
    manifest = json.loads((tmp_path / "exports" / "last" / "manifest.json").read_text())
    assert manifest["network"] == "resnet50, width 16"
