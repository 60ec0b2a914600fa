"""Images that stay on the disk: the bits of those in memory, in the same order, in memory that does not
grow."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from helpers.command import environment
from helpers.resume import EVERY_STEP, RUNTIME, Crash, crashing
from helpers.run import snapshot_bits

from advtf.data import batches, registry, sets, stored
from advtf.data import tfds as reader
from advtf.data.arrays import to_unit_float
from advtf.data.registry import require_place
from advtf.errors import UsageError
from advtf.training.callbacks import WeightStatistics
from advtf.training.directory import TrainingDirectory
from advtf.training.run import build_trainer, train
from advtf.training.settings import RunOptions, TrainConfig

SIZE = 12


class RecordedImages(tfds.core.GeneratorBasedBuilder):
    """JPEG images of many sizes, which have to be decoded and resized."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = pathlib.Path(__file__).parent
    COUNTS = (70, 30)

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=4),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(count) for name, count in zip(("train", "test"), self.COUNTS)}  # noqa: B905

    def _generate_examples(self, count):
        random = np.random.default_rng(count)
        for i in range(count):
            height, width = random.integers(10, 20, 2)
            image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            yield i, {"image": image, "label": i % 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("records")
    RecordedImages(data_dir=place, file_format="array_record").download_and_prepare()
    return str(place)


def load(folder, images, val_fraction=0.2, train_examples=None):
    return sets.load(
        "recorded_images", folder, val_fraction, SIZE, images=images, train_examples=train_examples
    )


@pytest.fixture(scope="module")
def pair(folder):
    """The same data in memory and on the disk."""
    return load(folder, "memory"), load(folder, "disk")


def test_splits_have_the_same_images_labels_and_digests(pair):
    memory, disk = pair
    assert isinstance(memory.train.images, np.ndarray) and not isinstance(disk.train.images, np.ndarray)
    assert memory.counts == disk.counts == {"train": 56, "validation": 14, "test": 30}
    for name in memory.counts:
        here, there = getattr(memory, name), getattr(disk, name)
        assert here.sha256() == there.sha256()
        np.testing.assert_array_equal(here.labels, there.labels)
        assert here.images.shape == there.images.shape and here.images.dtype == there.images.dtype


def test_what_is_read_is_what_tfds_decodes(folder, pair):
    """TFDS's own data source is the oracle; it decodes without TensorFlow, hence the tolerance."""
    source = RecordedImages(data_dir=folder, file_format="array_record").as_data_source("test")
    images = pair[1].test.images
    for row, example in enumerate(source):
        expected = tf.image.resize(example["image"].astype(np.float32), (SIZE, SIZE), antialias=True)
        assert np.abs(images[[row]][0] - expected.numpy()).max() < 25
        assert pair[1].test.labels[row] == example["label"]


@pytest.mark.parametrize("settings", [{}, {"augment": True, "views": 2}])
def test_batches_have_the_same_bits_from_every_step_on(pair, settings):
    def taken(data, start):
        made = batches.training_batches(data.train, 8, seed=3, start_step=start, total_steps=12, **settings)
        return [[part.numpy().tobytes() for part in tf.nest.flatten(batch)] for batch in made]

    memory, disk = pair
    whole = taken(memory, 0)
    assert len(whole) == 12 and taken(disk, 0) == whole
    assert taken(disk, 5) == whole[5:]


def test_evaluation_batches_are_the_same(pair):
    for limit in (None, 11):
        found = [
            [
                (x.numpy().tobytes(), y.numpy().tobytes())
                for x, y in batches.evaluation_batches(d.test, 8, limit)
            ]
            for d in pair
        ]
        assert found[0] == found[1] and len(found[0]) == (2 if limit else 4)


@pytest.mark.parametrize("limit", [16, 19, 21])
def test_four_workers_evaluate_the_whole_batches_though_the_last_leaves_some_without_images(pair, limit):
    memory, disk = (data.test for data in pair)
    shares = [
        list(batches.evaluation_batches(disk, 8, limit, batches.Share(first, 1, 4))) for first in range(4)
    ]
    whole = list(batches.evaluation_batches(memory, 8, limit))
    assert [len(share) for share in shares] == [len(whole)] * 4
    for step, expected in enumerate(whole):
        found = [np.concatenate(parts) for parts in zip(*(share[step] for share in shares), strict=True)]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    ends = {16: [2, 2, 2, 2], 19: [2, 1, 0, 0], 21: [2, 2, 1, 0]}
    assert [len(share[-1][1]) for share in shares] == ends[limit]


def test_workers_train_on_the_rows_of_the_whole_batches(pair):
    memory, disk = (data.train for data in pair)
    settings = dict(seed=3, start_step=1, total_steps=3, augment=True)
    whole = list(batches.training_batches(memory, 8, **settings))
    shares = [
        list(batches.training_batches(disk, 8, **settings, share=batches.Share(first, 1, 2)))
        for first in (0, 1)
    ]
    for step, expected in enumerate(whole):
        found = [np.concatenate(parts) for parts in zip(*(share[step] for share in shares), strict=True)]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_no_images_are_read_as_from_an_array(pair):
    memory, disk = (data.train.images for data in pair)
    np.testing.assert_array_equal(disk.batch(tf.constant([], tf.int64)), memory[:0])
    np.testing.assert_array_equal(disk[:0], memory[:0])


def test_parts_are_chosen_as_from_an_array(pair):
    memory, disk = (data.train.images for data in pair)
    for which in (slice(3, 9), np.array([5, 0, 5]), np.arange(len(memory)) % 7 == 2, slice(0)):
        np.testing.assert_array_equal(disk[which], memory[which])
    np.testing.assert_array_equal(to_unit_float(disk), to_unit_float(memory))


def test_a_stratified_subset_has_the_bits_of_one_in_memory(folder, pair):
    memory, disk = (load(folder, images, train_examples=23) for images in ("memory", "disk"))
    assert isinstance(disk.train.images, stored.StoredImages) and len(disk.train) == 23
    assert disk.train.sha256() == memory.train.sha256()
    assert disk.validation.sha256() == pair[1].validation.sha256()


def test_only_the_images_in_use_are_decoded_and_damage_is_told(folder, monkeypatch):
    whole, seen, serialized = load(folder, "memory"), [], stored.StoredImages._serialized

    def watched(images, positions):
        seen.extend(images._rows[positions].tolist())
        return serialized(images, positions)

    monkeypatch.setattr(stored.StoredImages, "_serialized", watched)
    few = load(folder, "memory", train_examples=5)
    assert len(seen) == 5 + 14 + 30 and isinstance(few.train.images, np.ndarray)
    assert few.validation.sha256() == whole.validation.sha256() and few.test.sha256() == whole.test.sha256()
    nothing = np.array([b""] * 8, object)
    monkeypatch.setattr(stored.StoredImages, "_serialized", lambda images, rows: nothing[: len(rows)])
    with pytest.raises(UsageError, match=r"prepared data must be complete\. Received: .*recorded_images"):
        load(folder, "memory", train_examples=5)


def test_what_fits_is_read_and_what_does_not_stays_on_the_disk(folder, monkeypatch):
    needed = 100 * SIZE * SIZE * 3
    for memory, kept in ((2 * needed, True), (2 * needed - 1, False)):
        monkeypatch.setattr(reader, "machine_memory", lambda size=memory: size)
        assert isinstance(load(folder, "auto").train.images, np.ndarray) == kept
    assert registry.PLACES[0] == "auto"


def test_what_cannot_stay_on_the_disk_is_refused(tmp_path, folder):
    RecordedImages(data_dir=tmp_path).download_and_prepare()
    with pytest.raises(UsageError, match=r"files of tfrecord\. Prepare them by tfds\.builder"):
        load(str(tmp_path), "disk")
    with pytest.raises(UsageError, match=r"files of tfrecord\. Prepare them by tfds\.builder"):
        require_place("recorded_images", str(tmp_path), "disk")  # without TensorFlow
    require_place("recorded_images", folder, "disk")
    with pytest.raises(UsageError, match=r"images=disk needs data .* Received: dataset=digits"):
        sets.load("digits", images="disk")
    with pytest.raises(UsageError, match="order=published needs"):
        sets.load("recorded_images", folder, 0.0, SIZE, "published")


@pytest.mark.slow
def test_a_training_from_the_disk_killed_or_not_has_the_bits_of_one_in_memory(tmp_path, pair):
    config = TrainConfig.of(
        dict(dataset="recorded_images", model="resnet18", width=1, image_size=SIZE, batch_size=8, epochs=2)
        | dict(eps=0.03, attack_steps=1, augment=True, periods=(), lr=0.05, val_fraction=0.2)
    )

    def trained(name, data):
        run = TrainingDirectory(tmp_path / name)
        run.path.mkdir(exist_ok=True)
        options, reports = RunOptions(checkpoint_minutes=EVERY_STEP), []
        train(build_trainer(config, data, RUNTIME), config, options, run, data, report=reports.append)
        return snapshot_bits(run.snapshots), reports

    memory, disk = pair
    expected, _ = trained("memory", memory)
    assert trained("disk", disk)[0] == expected
    with crashing(WeightStatistics, "on_train_batch_end", 10), pytest.raises(Crash):
        trained("killed", disk)
    assert trained("killed", disk) == (expected, ["Continuing after step 9 of 14."])


MEASURED = """
import resource, sys
from advtf import runtime
runtime.import_tensorflow()
from advtf.data import batches, sets
data = sets.load("recorded_images", sys.argv[1], 0.0, 256, images=sys.argv[2])
made = iter(batches.training_batches(data.train, 32, seed=0))
for step in range(150):
    x, y = next(made)
    if step == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path, monkeypatch):
    """5,000 images of 256×256 are 983 MB in memory; a process that reads them all from the disk grows by
    little."""
    monkeypatch.setattr(RecordedImages, "COUNTS", (5000, 1))
    RecordedImages(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    grown = {}
    for place in ("disk", "memory"):
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(tmp_path), place],
            env=environment(), capture_output=True, text=True, check=True,
        )  # fmt: skip
        grown[place] = [int(number) / 1e3 for number in done.stdout.split()]  # MB; Linux counts in KiB
    print(grown)
    assert grown["disk"][0] < 150
    assert grown["memory"][1] - grown["disk"][1] > 700
