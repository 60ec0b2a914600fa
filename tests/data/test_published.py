"""The published order of MNIST and CIFAR-10, got back from data that TFDS itself has written."""

import hashlib
import struct

import numpy as np
import pytest

from advtf.data import published, registry, sets
from advtf.data.registry import DATASETS, PublishedOrder, require_order
from advtf.errors import UsageError

tfds = pytest.importorskip("tensorflow_datasets")

KNOWN = dict(published.CIFAR10_LABELS)  # below, other files take their place
SIZES = {"train": 2050, "test": 1100}


@pytest.fixture(scope="module")
def files():
    """Images and labels as published: a set of one's own, in an order that TFDS does not know."""
    rng = np.random.default_rng(0)
    images = {split: rng.integers(0, 256, (count, 2, 2, 1), np.uint8) for split, count in SIZES.items()}
    return {split: (x, rng.integers(0, 10, len(x)).astype(np.int32)) for split, x in images.items()}


def prepare(folder, name, files, numbers=lambda split, i: f"{split}_{i:05d}"):
    """Has TFDS write the files; the key of an example is its position, as in its MNIST and CIFAR-10."""
    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(2, 2, 1)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    contents = {
        split: [
            (i, {"id": numbers(split, i), "image": x, "label": y})
            for i, (x, y) in enumerate(zip(*part, strict=True))
        ]
        for split, part in files.items()
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        data_dir=str(folder),
        split_datasets=contents,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("published")
    prepare(folder, "like_mnist", files)
    prepare(folder, "like_cifar", files)
    # A copy of CIFAR-10 with its own numbers after the thousandth test image, such as there are.
    moved = lambda split, i: f"{split}_{i if i < 1000 else SIZES[split] + 999 - i:05d}"  # noqa: E731
    prepare(folder, "renumbered", files, moved)
    return str(folder)


@pytest.fixture(autouse=True)
def known(monkeypatch, files):
    """Registers the sets, with what is known of their files."""
    found = {}
    for split, (x, y) in files.items():
        image_file = struct.pack(">iiii", 2051, len(x), 2, 2) + x.tobytes()
        label_file = struct.pack(">ii", 2049, len(y)) + bytes(y.tolist())
        found[split] = tuple(hashlib.md5(file).hexdigest() for file in (image_file, label_file))
        blocks = [bytes(y[i : i + 1000].tolist()) for i in range(0, len(y), 1000)]
        digests = " ".join(hashlib.sha256(block).hexdigest()[:8] for block in blocks)
        monkeypatch.setitem(published.CIFAR10_LABELS, split, digests)
    monkeypatch.setattr(published, "MNIST_FILES", found)
    for name, like in (("like_mnist", "mnist"), ("like_cifar", "cifar10"), ("renumbered", "cifar10")):
        monkeypatch.setitem(DATASETS, name, registry.DataSet(published=DATASETS[like].published))


@pytest.mark.parametrize("name", ["like_mnist", "like_cifar"])
def test_the_published_order_is_restored_exactly(folder, files, name):
    stored, ordered = (sets.load(name, folder, order=order) for order in ("stored", "published"))
    for split in ("train", "test"):
        images, labels = files[split]
        assert not np.array_equal(getattr(stored, split).labels, labels)
        np.testing.assert_array_equal(getattr(ordered, split).images, images)
        np.testing.assert_array_equal(getattr(ordered, split).labels, labels)
    test, classes = sets.load_test(name, folder, order="published", first=7)
    np.testing.assert_array_equal(test.images, files["test"][0][:7])
    assert classes == 10 and len(test) == 7


def test_resized_images_are_checked_before_they_are_resized(folder):
    small, _ = sets.load_test("like_mnist", folder, 1, "published")
    large, _ = sets.load_test("like_mnist", folder, None, "published")
    mean = large.images.mean(axis=(1, 2), keepdims=True)
    assert np.abs(small.images - mean).max() <= 0.5 + 1e-6


def test_images_that_are_not_those_of_the_files_are_refused(folder, monkeypatch):
    with pytest.raises(UsageError, match=r"only the first 1000 of 2050.*Use --order=stored, or prepare"):
        sets.load("renumbered", folder, order="published")
    with pytest.raises(UsageError, match=r"split test, .* 1000 of 1100 .* or use the first 1000 images only"):
        sets.load_test("renumbered", folder, order="published")
    assert len(sets.load_test("renumbered", folder, order="published", first=1000)[0]) == 1000
    monkeypatch.setitem(published.MNIST_FILES, "test", ("0" * 32, "0" * 32))
    with pytest.raises(UsageError, match="the place of none of 1100 images"):
        sets.load_test("like_mnist", folder, order="published", first=1)


def test_ids_that_do_not_count_the_images_are_refused(tmp_path, files, monkeypatch):
    prepare(tmp_path, "like_cifar", files, lambda split, i: f"{split}_{i + 1:05d}")
    with pytest.raises(UsageError, match="the place of none of 2050 images"):
        sets.load("like_cifar", str(tmp_path), order="published")


def test_the_digits_are_stored_as_published_and_other_sets_are_refused(monkeypatch):
    as_stored, ordered = (sets.load("digits", order=order) for order in ("stored", "published"))
    np.testing.assert_array_equal(as_stored.train.images, ordered.train.images)
    for name in ("cifar100", "svhn_cropped", "cifar10_corrupted/fog_3"):
        with pytest.raises(
            UsageError, match=r"is known: digits, mnist, cifar10.*Use --order=stored"
        ) as caught:
            require_order(name, "published")
        assert "\n" not in str(caught.value)
    require_order("mnist:3.0.1", "published")
    require_order("svhn_cropped", "stored")
    with pytest.raises(UsageError, match="Did you mean 'published'"):
        sets.load("digits", order="publishd")
    monkeypatch.setitem(DATASETS, "own", registry.DataSet(read=lambda *_: {}, published=PublishedOrder()))
    require_order("own", "published")


def test_there_is_a_digest_for_every_thousand_labels_of_cifar10():
    assert {split: len(set(digests.split())) for split, digests in KNOWN.items()} == {"train": 50, "test": 10}
