import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from advtf.data import arrays, augmentation
from advtf.data import sets as data
from advtf.data import tfds as tfds_images
from advtf.data.batches import evaluation_batches, training_batches
from advtf.errors import UsageError

tfds = pytest.importorskip("tensorflow_datasets")


def numbered_split(count=23):
    """Images whose every pixel is the number of the example."""
    numbers = np.arange(count, dtype=np.uint8)
    return data.Split(
        np.broadcast_to(numbers[:, None, None, None], (count, 8, 8, 1)).copy(), numbers.astype("i4")
    )


def labels_of(batches):
    return [y.tolist() for _, y in batches.as_numpy_iterator()]


# ---- digits and the fixed splits


def test_digits_are_the_published_images_split_in_proportion():
    from sklearn.datasets import load_digits

    digits = data.load("digits", val_fraction=0.1)
    parts = (digits.train, digits.validation, digits.test)
    assert [len(part) for part in parts] == [1295, 143, 359]
    assert digits.input_shape == (8, 8, 1) and digits.num_classes == 10
    everything = np.concatenate([part.images for part in parts]) * 16
    published = load_digits().images
    assert sorted(map(bytes, everything[..., 0].astype("u1"))) == sorted(map(bytes, published.astype("u1")))
    for part in parts:  # 174 to 183 examples per class in all
        per_class = np.bincount(part.labels, minlength=10) * 1797 / len(part)
        assert np.abs(per_class - 178).max() < 22
    assert digits.test.images.dtype == np.float32 and digits.test.images.max() == 1


def test_digits_resize_keeps_the_range():
    images = data.load("digits", image_size=16).test.images
    assert images.shape[1:] == (16, 16, 1) and images.min() >= 0 and images.max() <= 1


def test_held_out_examples_follow_the_rule_within_sorted_classes():
    labels = np.array([1, 0, 1, 0, 1, 0, 0, 1, 0, 1])
    # In class order: examples 1 3 5 6 8 | 0 2 4 7 9; a fraction of 0.2 takes the fifth and the tenth.
    assert np.flatnonzero(arrays.held_out(labels, 0.2)).tolist() == [8, 9]


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.3, 0.5])
def test_every_class_gives_its_share(fraction):
    labels = np.repeat(np.arange(7), 100)
    shuffled = np.random.default_rng(0).permutation(labels)
    for order in (labels, shuffled):
        counts = np.bincount(order[arrays.held_out(order, fraction)], minlength=7)
        assert np.abs(counts - 100 * fraction).max() <= 1


def test_validation_is_disjoint_from_training():
    split = numbered_split(50)
    made = data.from_arrays(split.images, split.labels, split.images, split.labels, val_fraction=0.2)
    assert len(made.validation) == 10
    assert sorted([*made.train.labels, *made.validation.labels]) == list(range(50))
    np.testing.assert_array_equal(made.train.images[:, 0, 0, 0], made.train.labels)


# ---- the stream of training batches


def test_each_epoch_is_a_permutation_and_epochs_differ():
    split = numbered_split(24)
    steps = labels_of(training_batches(split, 6, seed=0, total_steps=12))
    epochs = np.reshape(steps, (3, 24)).tolist()
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0] and epochs[0] != list(range(24))


def test_the_rest_of_an_epoch_is_left_out_and_images_follow_labels():
    batches = list(training_batches(numbered_split(23), 5, seed=3, total_steps=4).as_numpy_iterator())
    seen = np.concatenate([y for _, y in batches])
    assert len(set(seen)) == len(seen) == 20
    for x, y in batches:
        assert x.shape == (5, 8, 8, 1) and x.dtype == np.float32 and y.dtype == np.int32
        np.testing.assert_array_equal(x[:, 3, 4, 0], y.astype("f4") / np.float32(255))


@pytest.mark.parametrize("augment", [False, True])
def test_a_later_start_delivers_exactly_the_tail(augment):
    split = data.load("digits").train
    options = {"seed": 5, "steps_per_epoch": 3, "total_steps": 8, "augment": augment}
    whole = list(training_batches(split, 16, **options).as_numpy_iterator())
    for start in (0, 1, 4, 7, 8):
        tail = list(training_batches(split, 16, start_step=start, **options).as_numpy_iterator())
        assert len(tail) == 8 - start
        for (x, y), (x_whole, y_whole) in zip(tail, whole[start:], strict=True):
            np.testing.assert_array_equal(x, x_whole)
            np.testing.assert_array_equal(y, y_whole)


def test_seeds_differ_and_repeat():
    first, again, other = (
        labels_of(training_batches(numbered_split(), 5, seed=seed, total_steps=4)) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_shortened_epoch_changes_order_after_its_steps():
    steps = labels_of(training_batches(numbered_split(24), 6, seed=0, steps_per_epoch=2, total_steps=4))
    full = labels_of(training_batches(numbered_split(24), 6, seed=0, total_steps=6))
    assert steps == full[:2] + full[4:6]


def test_a_stream_without_an_end_is_infinite_and_has_fixed_shapes():
    batches = training_batches(numbered_split(), 5, seed=0)
    assert batches.cardinality() == tf.data.INFINITE_CARDINALITY
    assert batches.element_spec[0].shape == (5, 8, 8, 1) and batches.element_spec[1].shape == (5,)
    policy = batches.options().experimental_distribute.auto_shard_policy
    assert policy == tf.data.experimental.AutoShardPolicy.OFF


def test_augmentation_changes_from_epoch_to_epoch_and_stays_in_range():
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    split = data.Split(image, np.zeros(1, np.int32))
    batches = training_batches(split, 1, seed=0, total_steps=20, augment=True)
    seen = [x for x, _ in batches.as_numpy_iterator()]
    assert len({x.tobytes() for x in seen}) > 10
    assert min(x.min() for x in seen) >= 0 and max(x.max() for x in seen) <= 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 24}, "batch_size must be between 1 and the 23"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 5, "steps_per_epoch": 5}, "between 1 and 4"),
        ({"batch_size": 5, "steps_per_epoch": 0}, "steps_per_epoch"),
    ],
)
def test_impossible_batches_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        training_batches(numbered_split(), seed=0, **options)


def test_evaluation_keeps_the_order_and_the_ragged_last_batch():
    assert labels_of(evaluation_batches(numbered_split(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert labels_of(evaluation_batches(numbered_split(7), 3, limit=4)) == [[0, 1, 2], [3]]
    x, _ = next(evaluation_batches(numbered_split(7), 3).as_numpy_iterator())
    np.testing.assert_array_equal(x[2], np.full((8, 8, 1), np.float32(2) / np.float32(255)))
    with pytest.raises(UsageError, match="limit must be at least 1"):
        evaluation_batches(numbered_split(7), 3, limit=0)


# ---- augmentation


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_crop_and_flip_equal_numpy(dtype):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (16, 7, 9, 3)).astype(dtype)
    top, left = rng.integers(0, 5, (2, 16)).astype("i4")
    flip = rng.integers(0, 2, 16).astype(bool)
    expected = np.empty_like(x)
    for i, image in enumerate(x):
        padded = np.zeros((11, 13, 3), dtype)
        padded[2:9, 2:11] = image
        window = padded[top[i] : top[i] + 7, left[i] : left[i] + 9]
        expected[i] = window[:, ::-1] if flip[i] else window
    result = augmentation.crop_and_flip(tf.constant(x), top, left, flip, padding=2)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, expected)


def test_augmentation_draws_every_offset_and_both_sides_evenly():
    """One marked pixel in the centre, and a second beside it, tell the offsets and the flip of each image."""
    count, padding = 4000, 2
    x = np.zeros((count, 9, 9, 1), np.uint8)
    x[:, 4, 4], x[:, 4, 5] = 1, 2
    seed = tf.constant([3, 4], tf.int64)
    result = augmentation.augment_batch(tf.constant(x), seed, padding).numpy()[..., 0]
    rows, columns = np.argmax(result.max(2) == 2, axis=1), np.argmax(result.max(1) == 1, axis=1)
    flipped = columns > np.argmax(result.max(1) == 2, axis=1)
    shifts = np.stack([rows - 4, np.where(flipped, 4 - columns, columns - 4)], axis=1)
    for axis in (0, 1):
        values, counts = np.unique(shifts[:, axis], return_counts=True)
        assert values.tolist() == [-2, -1, 0, 1, 2]
        assert np.abs(counts - count / 5).max() < 130  # five standard deviations
    assert abs(flipped.mean() - 0.5) < 0.04
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.08 and abs(np.corrcoef(shifts[:, 0], flipped)[0, 1]) < 0.08
    again = augmentation.augment_batch(tf.constant(x), seed, padding).numpy()[..., 0]
    np.testing.assert_array_equal(result, again)


def test_resize_keeps_type_and_constant_images():
    x = tf.fill([5, 7, 3], tf.constant(200, tf.uint8))
    resized = augmentation.resize(x, 4)
    assert resized.dtype == tf.uint8 and resized.shape == (4, 4, 3)
    assert np.unique(resized).tolist() == [200]


# ---- arrays


def test_arrays_are_taken_as_they_are():
    x, y = np.zeros((4, 6, 5, 3), np.uint8), np.array([[0], [1], [2], [1]], np.int64)
    made = data.from_arrays(x, y, x.astype("f8"), y, num_classes=5)
    assert made.input_shape == (6, 5, 3) and made.num_classes == 5 and made.validation is None
    assert made.train.images.dtype == np.uint8 and made.test.images.dtype == np.float32
    assert made.train.labels.tolist() == [0, 1, 2, 1] and made.train.labels.dtype == np.int32
    assert data.from_arrays(x, y, x, y).num_classes == 3


X, Y = np.zeros((4, 6, 5, 3), np.float32), np.array([0, 1, 2, 1])


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"x_train": X[..., 0]}, r"x_train.*\(N, H, W, C\).*x_train\[\.\.\., None\]"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "not empty"),
        ({"x_test": X + 255}, r"x_test must be finite and in \[0, 1\].*255.*Divide by 255"),
        ({"x_train": X - 1}, r"\[-1, -1\]"),
        ({"x_train": X * np.nan}, "nan"),
        ({"x_train": X + np.inf}, "inf"),
        ({"x_train": X.astype("i4")}, r"dtype=int32.*astype\('uint8'\)"),
        ({"y_train": Y[:3]}, "4 images and 3 labels"),
        ({"y_train": Y.astype("f4")}, "dtype=float32"),
        ({"y_test": np.eye(3, dtype=int)[Y]}, r"y_test.*argmax\(-1\)"),
        ({"y_train": Y - 1}, r"labels in \[-1, 2\]"),
        ({"num_classes": 2}, r"\[0, 2\).*labels in \[0, 2\]"),
        ({"x_test": X[:, :5]}, "same image shape"),
        ({"val_fraction": 1.0}, "val_fraction=1.0"),
        ({"val_fraction": float("nan")}, "val_fraction=nan"),
        ({"val_fraction": 0.1}, "hold out at least one of the 4"),
    ],
)
def test_unsuitable_arrays_are_refused_in_one_line(changed, message):
    given = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y, **changed}
    with pytest.raises(UsageError, match=message) as raised:
        data.from_arrays(**given)
    assert "\n" not in str(raised.value)


# ---- TFDS


def examples(count, shape=(9, 9, 3), varying=False, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(count):
        size = (shape[0] + i % 3 if varying else shape[0], *shape[1:])
        yield {"image": rng.integers(0, 256, size, np.uint8), "label": i % 4, "note": "x" * i}


def prepare(folder, name, train=None, test=None, *, shape=(9, 9, 3), labels=4, splits=("train", "test")):
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape),
            "label": tfds.features.ClassLabel(num_classes=labels),
            "note": tfds.features.Text(),
        }
    )
    contents = (train or examples(30), test or examples(10, seed=1))
    contents = {split: list(enumerate(part)) for split, part in zip(splits, contents, strict=False)}
    return tfds.dataset_builders.store_as_tfds_dataset(
        name=name, version="1.0.0", features=features, data_dir=str(folder), split_datasets=contents
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare(folder, "tiny_images")
    return folder


def no_network(*_):
    raise AssertionError("prepared data must be read without a look at the network")


def pixels(part):
    return sorted(image.tobytes() for image in part)


def test_prepared_data_are_read_exactly(prepared, monkeypatch):
    monkeypatch.setattr(tfds_images, "reachable", no_network)
    tiny = data.load("tiny_images", data_dir=str(prepared), val_fraction=0.2)
    assert (len(tiny.train), len(tiny.validation), len(tiny.test)) == (24, 6, 10)
    assert tiny.input_shape == (9, 9, 3) and tiny.num_classes == 4 and tiny.train.images.dtype == np.uint8
    written = list(examples(30))
    read = np.concatenate([tiny.train.images, tiny.validation.images])
    assert pixels(read) == pixels(example["image"] for example in written)
    by_pixels = {example["image"].tobytes(): example["label"] for example in written}
    assert all(by_pixels[x.tobytes()] == y for x, y in zip(tiny.train.images, tiny.train.labels, strict=True))


def test_prepared_data_are_found_through_the_environment(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert data.load("tiny_images", image_size=6).input_shape == (6, 6, 3)


def test_a_validation_split_stands_in_for_a_missing_test_split(tmp_path):
    prepare(tmp_path, "with_validation", splits=("train", "validation"))
    assert len(data.load("with_validation", str(tmp_path)).test) == 10
    prepare(tmp_path, "only_train", splits=("train",))
    with pytest.raises(UsageError, match=r"test \(or validation\).*only_train with train"):
        data.load("only_train", str(tmp_path))


def test_images_of_different_sizes_need_a_size(tmp_path):
    prepare(tmp_path, "varying", list(examples(9, varying=True)), shape=(None, None, 3))
    with pytest.raises(UsageError, match="image_size is required"):
        data.load("varying", str(tmp_path))
    assert data.load("varying", str(tmp_path), image_size=5).train.images.shape == (9, 5, 5, 3)
    with pytest.raises(UsageError, match="must fit into memory"):
        data.load("varying", str(tmp_path), image_size=10**6)


@pytest.mark.parametrize("damage", ["truncated", "missing", "metadata"])
def test_damaged_data_are_named(tmp_path, damage):
    prepare(tmp_path, "damaged")
    folder = tmp_path / "damaged" / "1.0.0"
    shard = next(folder.glob("*train*"))
    if damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif damage == "missing":
        shard.unlink()
    else:
        (folder / "dataset_info.json").write_text("{ not json")
    with pytest.raises(UsageError, match=str(tmp_path)) as raised:
        data.load("damaged", str(tmp_path))
    assert "\n" not in str(raised.value)


def test_a_mistyped_name_is_answered_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_images, "reachable", no_network)
    with pytest.raises(UsageError, match="Did you mean 'cifar10'"):
        data.load("cifra10", str(tmp_path))
    with pytest.raises(UsageError, match="fog_9"):
        data.load("cifar10_corrupted/fog_9", str(tmp_path))


def test_sets_without_images_are_refused_before_any_download(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_images, "reachable", no_network)
    with pytest.raises(UsageError, match="an image and a class label"):
        data.load("titanic", str(tmp_path))


def test_without_data_and_network_the_message_names_the_folder_and_the_ways_out(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(tfds_images, "reachable", lambda url: asked.append(url))
    with pytest.raises(UsageError) as raised:
        data.load("cifar10", str(tmp_path))
    assert asked == ["https://www.cs.toronto.edu/"]
    for part in (str(tmp_path), "--data_dir", "TFDS_DATA_DIR", "download_and_prepare()", "--dataset=digits"):
        assert part in str(raised.value)
    assert "\n" not in str(raised.value) and not any(tmp_path.iterdir())


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    def fail(self, **_):
        raise ConnectionError("refused\nby the proxy")

    monkeypatch.setattr(tfds_images, "reachable", lambda url: True)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(UsageError, match=r"preparing it failed: refused\. Point --data_dir") as raised:
        data.load("cifar10", str(tmp_path))
    assert "\n" not in str(raised.value)


class ComputedImages(tfds.core.GeneratorBasedBuilder):
    """Needs no download, as a user's own builder may not."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = pathlib.Path(__file__).parent

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(9, 9, 3)),
            "label": tfds.features.ClassLabel(num_classes=4),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(12), "test": self._generate_examples(8)}

    def _generate_examples(self, count):
        for i, example in enumerate(examples(count)):
            yield i, {"image": example["image"], "label": example["label"]}


def test_unprepared_data_are_prepared_and_then_found(tmp_path, monkeypatch):
    first = data.load("computed_images", str(tmp_path))
    assert (len(first.train), len(first.test)) == (12, 8)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", no_network)
    np.testing.assert_array_equal(
        data.load("computed_images", str(tmp_path)).train.images, first.train.images
    )


def test_the_probe_sees_a_listening_server_and_ends_in_time_with_a_silent_one():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        start = time.monotonic()
        assert not tfds_images.reachable(url, seconds=0.3)
        assert time.monotonic() - start < 3

        def answer():
            for _ in range(2):  # the first connection waiting is the one given up above
                connection, _ = server.accept()
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        assert tfds_images.reachable(url, seconds=10)
    assert not tfds_images.reachable(url, seconds=10)  # refused at once


OFFLINE = """
import time
from advtf.data import sets as data
data.load("digits")  # TensorFlow is up
began = time.monotonic()
try:
    data.load("cifar100", {folder!r})
except data.UsageError as error:
    print(error, time.monotonic() - began, sep="\\n")
"""


@pytest.mark.slow
def test_offline_is_answered_within_seconds_in_a_fresh_process(tmp_path):
    closed = "http://127.0.0.1:9"  # a proxy that refuses stands for a machine without network
    environment = {**os.environ, "https_proxy": closed, "http_proxy": closed, "NO_PROXY": "", "no_proxy": ""}
    program = OFFLINE.format(folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    message, seconds = done.stdout.splitlines()
    assert message.startswith("no prepared data in") and float(seconds) < 12
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(not os.environ.get("TFDS_DATA_DIR"), reason="needs prepared MNIST in TFDS_DATA_DIR")
def test_real_mnist():
    mnist = data.load("mnist", val_fraction=0.02)
    assert (len(mnist.train), len(mnist.validation), len(mnist.test)) == (58800, 1200, 10000)
    assert np.bincount(mnist.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert abs(mnist.train.images.mean() / 255 - 0.1307) < 0.001
