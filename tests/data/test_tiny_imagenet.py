"""Tiny ImageNet's folder, generated small: pixels against Pillow, order, damage; its preset and models."""

import io

import numpy as np
import pytest

from advtf import models
from advtf.data import prepared, tiny_imagenet
from advtf.data import sets as data
from advtf.data import tfds as tfds_images
from advtf.data.registry import require_known
from advtf.errors import UsageError
from advtf.training.settings import TrainConfig

Image = pytest.importorskip("PIL.Image")
CLASSES = ("n03", "n01", "n02")  # as in the real file, not in order
SIZE = 16


def picture(seed, grey=False, size=SIZE):
    """A smooth random image, as JPEG bytes and as the pixels Pillow decodes from them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4) if grey else (4, 4, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((size, size)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue(), np.asarray(Image.open(buffer).convert("RGB"))


@pytest.fixture
def folder(tmp_path):
    """Three classes of five training images, the second grey, and four validation images."""
    root = tmp_path / "tiny-imagenet-200"
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(CLASSES) + "\n")
    for number, name in enumerate(CLASSES):
        images = root / "train" / name / "images"
        images.mkdir(parents=True)
        (images / "._hidden.JPEG").write_bytes(b"of another system")
        for i in range(5):
            (images / f"{name}_{i}.JPEG").write_bytes(picture(10 * number + i, grey=i == 1)[0])
    lines = []
    for i, name in enumerate(("n02", "n01", "n03", "n02")):
        (root / "val" / "images" / f"val_{i}.JPEG").write_bytes(picture(100 + i)[0])
        lines.insert(0, f"val_{i}.JPEG\t{name}\t0\t1\t2\t3")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n\n")
    return root


def refuse(*_):
    raise AssertionError("an unpacked folder must not be looked for elsewhere")


@pytest.mark.parametrize("place", ["folder", "parent"])
def test_images_labels_and_their_order(folder, monkeypatch, place):
    monkeypatch.setattr(tfds_images, "read", refuse)
    monkeypatch.setattr(tiny_imagenet, "BATCH", 4)  # several batches, the last one smaller
    tiny = data.load("tiny_imagenet", str(folder if place == "folder" else folder.parent))
    assert tiny.input_shape == (SIZE, SIZE, 3) and tiny.num_classes == 3 and tiny.validation is None
    assert tiny.train.images.dtype == tiny.test.images.dtype == np.uint8
    assert tiny.train.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5  # n01, n02, n03
    expected = [picture(10 * number + i, grey=i == 1)[1] for number in (1, 2, 0) for i in range(5)]
    np.testing.assert_array_equal(tiny.train.images, expected)
    assert tiny.test.labels.tolist() == [1, 2, 0, 1]
    np.testing.assert_array_equal(tiny.test.images, [picture(100 + i)[1] for i in (3, 2, 1, 0)])
    grey = tiny.train.images[1]
    assert (grey == grey[..., :1]).all()


def test_another_name_of_the_folder_held_out_images_and_another_size(folder, monkeypatch):
    renamed = folder.rename(folder.with_name("TIN"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(renamed))
    tiny = data.load("tiny_imagenet", val_fraction=0.2, image_size=8)
    assert (len(tiny.train), len(tiny.validation), tiny.input_shape) == (12, 3, (8, 8, 3))
    assert sorted(tiny.validation.labels) == [0, 1, 2]


DAMAGES = {
    "no classes": (lambda root: (root / "wnids.txt").unlink(), "wnids.txt must be a readable"),
    "no text": (lambda root: (root / "wnids.txt").write_bytes(b"\xff\xfe\xff"), "Received: no text"),
    "a class again": (lambda root: (root / "wnids.txt").write_text("n01\nn02\nn01\n"), "1 of them again"),
    "one class": (lambda root: (root / "wnids.txt").write_text("n01\n"), "two or more classes"),
    "a class without images": (
        lambda root: (root / "wnids.txt").write_text("n01\nn02\nn03\nn04\n"),
        "train/n04/images must hold the JPEGs",
    ),
    "no table": (lambda root: (root / "val" / "val_annotations.txt").unlink(), "No such file"),
    "an empty table": (lambda root: (root / "val" / "val_annotations.txt").write_text("\n"), "must name"),
    "a foreign class": (
        lambda root: (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn99\n"),
        "line 1, .*n99",
    ),
    "a missing image": (
        lambda root: (root / "val" / "images" / "val_2.JPEG").unlink(),
        "val_2.JPEG must be a whole JPEG. Received: no such file",
    ),
    "a cut image": (
        lambda root: (root / "train" / "n02" / "images" / "n02_3.JPEG").write_bytes(picture(0)[0][:200]),
        "n02_3.JPEG must be a whole JPEG. Received: damaged",
    ),
    "a cut first image": (
        lambda root: (root / "train" / "n01" / "images" / "n01_0.JPEG").write_bytes(b"no image"),
        "n01_0.JPEG must be a whole JPEG. Received: damaged",
    ),
    "another size": (
        lambda root: (root / "val" / "images" / "val_1.JPEG").write_bytes(picture(0, size=24)[0]),
        "val_1.JPEG must have 16×16 pixels like the first. Received: 24×24. Pass",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_in_one_line(folder, name):
    change, message = DAMAGES[name]
    change(folder)
    with pytest.raises(UsageError, match=message) as raised:
        data.load("tiny_imagenet", str(folder))
    assert "\n" not in str(raised.value) and str(folder) in str(raised.value)


def test_without_the_folder_data_prepared_for_tfds_are_read(tmp_path, monkeypatch):
    (tmp_path / "tiny_imagenet").mkdir()
    images = np.zeros((4, 8, 8, 3), np.uint8)
    parts = {"x_train": images, "y_train": [0, 1, 2, 3], "x_test": images, "y_test": [0, 1, 2, 3]}
    asked = []
    monkeypatch.setattr(tfds_images, "read", lambda *given, **wanted: asked.append((*given, wanted)) or parts)
    require_known("tiny_imagenet", str(tmp_path))
    assert data.load("tiny_imagenet", str(tmp_path)).num_classes == 4
    assert asked == [("tiny_imagenet", str(tmp_path), None, "stored", {"images": "auto"})]


def test_neither_folder_nor_prepared_data_is_answered_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "reachable", refuse)
    for answer in (require_known, data.load):
        with pytest.raises(UsageError, match=r"unpack|Unpack.*--data_dir") as raised:
            answer("tiny_imagenet", str(tmp_path))
        assert str(tmp_path) in str(raised.value) and "\n" not in str(raised.value)


def test_an_unpacked_folder_is_known(folder):
    require_known("tiny_imagenet", str(folder.parent))


def test_the_preset_is_the_papers():
    config = TrainConfig.of(dict(dataset="tiny_imagenet"))
    expected = dict(
        model="preact_resnet18", width=16, eps=8 / 255, eps_sched="constant", eps_max=None, attack_steps=10,
        relative_step=0.25, epochs=200, batch_size=100, augment=True, optimizer="sgd", lr=0.1, momentum=0.9,
        lr_sched="step", lr_milestones=(0.5, 0.75), lr_factor=0.1, weight_decay=1e-4,
    )  # fmt: skip
    assert {name: getattr(config, name) for name in expected} == expected
    assert TrainConfig.of(dict(dataset="tiny_imagenet", eps_sched="cosine")).eps_max == 16 / 255
    for model in models.MODELS:
        for kind in ("constant", "linear", "cosine"):
            TrainConfig.of(dict(dataset="tiny_imagenet", model=model, eps_sched=kind))


@pytest.mark.parametrize(
    ("name", "settings", "side"), [("preact_resnet18", {}, 8), ("wide_resnet", {"depth": 10}, 16)]
)
def test_networks_keep_twice_the_resolution_of_small_images(name, settings, side):
    """A 64×64 image goes through the strides of a 32×32 one: no part of it is cut before the average."""
    model = models.build(name, (64, 64, 3), 200, width=1, **settings)
    assert model.output_shape == (None, 200)
    assert model.get_layer("pool").input.shape[1:3] == (side, side)
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    corner = images.copy()
    corner[:, -1, -1] = 1 - corner[:, -1, -1]
    before, after = (np.asarray(model(x, training=False)) for x in (images, corner))
    assert np.isfinite(before).all() and (before != after).any(axis=1).all()
