"""Data sets of TFDS: prepared data, a download where there is none, and what is refused."""

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

from advtf.data import prepared as prepared_data
from advtf.data import sets as data
from advtf.data import tfds as reader
from advtf.errors import UsageError

tfds = pytest.importorskip("tensorflow_datasets")


def examples(count, shape=(9, 9, 3), varying=False, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(count):
        size = (shape[0] + i % 3 if varying else shape[0], *shape[1:])
        yield {"image": rng.integers(0, 256, size, np.uint8), "label": i % 4, "note": "x" * i}


def prepare(
    folder, name, train=None, test=None, *, shape=(9, 9, 3), labels=4, splits=("train", "test"), **how
):
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
        name=name, version="1.0.0", features=features, data_dir=str(folder), split_datasets=contents, **how
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
    monkeypatch.setattr(prepared_data, "reachable", no_network)
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


@pytest.mark.parametrize("ordered", [False, True])
def test_the_examples_of_several_files_have_the_order_of_tfds(tmp_path, ordered):
    how = dict(download_config=tfds.download.DownloadConfig(num_shards=3), disable_shuffling=ordered)
    prepare(tmp_path, "several", examples(100), **how)
    builder = tfds.builder("several", data_dir=str(tmp_path))
    assert len(builder.info.splits["train"].file_instructions) == 3
    expected = list(builder.as_dataset(split="train", shuffle_files=False).as_numpy_iterator())
    images = np.stack([example["image"] for example in expected])
    train = data.load("several", str(tmp_path)).train
    np.testing.assert_array_equal(train.images, images)
    np.testing.assert_array_equal(train.labels, [example["label"] for example in expected])
    unread = reader.read("several", str(tmp_path))["x_train"]
    for which in (np.array([7, 3, 99, 3]), np.arange(100) % 5 == 1, slice(90, None), slice(0)):
        np.testing.assert_array_equal(unread.take(which).read(), images[which])


@pytest.mark.parametrize("damage", ["truncated", "missing", "metadata", "image"])
def test_damaged_data_are_named(tmp_path, damage):
    prepare(tmp_path, "damaged")
    folder = tmp_path / "damaged" / "1.0.0"
    shard = next(folder.glob("*train*"))
    if damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif damage == "missing":
        shard.unlink()
    elif damage == "image":
        records = [record.numpy() for record in tf.data.TFRecordDataset(str(shard))]
        with tf.io.TFRecordWriter(str(shard)) as writer:
            for record in records:
                writer.write(record.replace(b"IDAT", b"LOST"))
    else:
        (folder / "dataset_info.json").write_text("{ not json")
    with pytest.raises(UsageError, match=str(tmp_path)) as raised:
        data.load("damaged", str(tmp_path))
    assert "\n" not in str(raised.value)


def test_a_mistyped_name_is_answered_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared_data, "reachable", no_network)
    with pytest.raises(UsageError, match="Did you mean 'cifar10'"):
        data.load("cifra10", str(tmp_path))
    with pytest.raises(UsageError, match="fog_9"):
        data.load("cifar10_corrupted/fog_9", str(tmp_path))


def test_sets_without_images_are_refused_before_any_download(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared_data, "reachable", no_network)
    with pytest.raises(UsageError, match="an image and a class label"):
        data.load("titanic", str(tmp_path))


def test_without_data_and_network_the_message_names_the_folder_and_the_ways_out(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(prepared_data, "reachable", lambda url: asked.append(url))
    with pytest.raises(UsageError) as raised:
        data.load("cifar10", str(tmp_path))
    assert asked == ["https://www.cs.toronto.edu/"]
    for part in (str(tmp_path), "--data_dir", "TFDS_DATA_DIR", "download_and_prepare()", "--dataset=digits"):
        assert part in str(raised.value)
    assert "\n" not in str(raised.value) and not any(tmp_path.iterdir())


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    def fail(self, **_):
        raise ConnectionError("refused\nby the proxy")

    monkeypatch.setattr(prepared_data, "reachable", lambda url: True)
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
        assert not prepared_data.reachable(url, seconds=0.3)
        assert time.monotonic() - start < 3

        def answer():
            for _ in range(2):  # the first connection waiting is the one given up above
                connection, _ = server.accept()
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        assert prepared_data.reachable(url, seconds=10)
    assert not prepared_data.reachable(url, seconds=10)  # refused at once


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
