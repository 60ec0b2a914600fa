"""Generated images in the files of a prepared imagenet2012: JPEGs of many sizes, 1,000 classes, 3 splits."""

import pathlib

import numpy as np
import tensorflow_datasets as tfds


def prepare(folder, train=24, validation=8, test=4):
    """Prepares the data set as ArrayRecord files; as in the original, test images have the label −1."""
    with tfds.core.registered.skip_registration():  # reading uses TFDS's own class

        class Imagenet2012(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("5.1.0")
            pkg_dir_path = pathlib.Path(__file__).parent

            def _info(self):
                features = {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=[f"n{number:08}" for number in range(1000)]),
                    "file_name": tfds.features.Text(),
                }
                return self.dataset_info_from_configs(
                    features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
                )

            def _split_generators(self, dl_manager):
                counts = {"train": train, "validation": validation, "test": test}
                return {split: self._generate_examples(split, count) for split, count in counts.items()}

            def _generate_examples(self, split, count):
                random = np.random.default_rng(count)
                for i in range(count):
                    label = -1 if split == "test" else int(random.integers(1000))
                    name = f"{split}_{i}.JPEG"
                    yield name, {"image": _image(random), "label": label, "file_name": name}

        Imagenet2012(data_dir=folder, file_format="array_record").download_and_prepare()


def _image(random):
    """Returns blocks of 20 pixels: noise of single ones makes large files."""
    height, width = random.integers(230, 420, 2)
    coarse = random.integers(0, 256, (height // 20 + 1, width // 20 + 1, 3), dtype=np.uint8)
    return coarse.repeat(20, axis=0).repeat(20, axis=1)[:height, :width]
