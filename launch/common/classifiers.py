"""Classifiers that benchmarks attack and examine, with images of the data that they were trained on.

Its tables are read without TensorFlow, which is imported when a classifier is loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from advtf.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from advtf.classifiers.classifier import Classifier

UNTRAINED = "untrained"  # the name of a model that stands for a small one with its first weights
# The classifiers that entries attack and examine, with the training that makes each.
CLASSIFIERS = {
    "saved_models/benchmark-lenet/last": "python -m advtf.main --dataset=mnist --width=16 --eps=0.1 "
    "--attack_steps=5 --attack_step_size=eps/4 --epochs=6 --steps_per_epoch=150 --schedule_unit=step "
    "--lr=1e-3 --precision=bfloat16 --out_dir=runs/benchmark-lenet --export_dir=saved_models/benchmark-lenet",
    "saved_models/benchmark-resnet18/last": "python -m advtf.main --dataset=cifar10 --adversary=fgsm_n "
    "--eps_sched=cosine --schedule_unit=step --epochs=12 --steps_per_epoch=100 --val_fraction=0.01 "
    "--precision=bfloat16 --eval_examples=1000 --out_dir=runs/benchmark-resnet18 "
    "--export_dir=saved_models/benchmark-resnet18",
}
LENET, RESNET18 = CLASSIFIERS
SMALL = {"model": "lenet", "width": 1, "norm": "linf", "eps": 0.02}  # what `UNTRAINED` stands for
SMALL |= {"attack_steps": 2, "attack_step_size": "0.25eps", "random_start": "uniform"}
SMALL_SHAPE, SMALL_CLASSES = (12, 12, 1), 10


@dataclass(frozen=True, eq=False)
class Subject:
    """A classifier and images.

    Attributes:
        classifier: live, with the Keras model as its source's weights.
        training: the settings of its training by name.
        x, y: images float32 (N, H, W, C) in [0, 1] and labels int32 (N,).
    """

    classifier: "Classifier"
    training: Mapping[str, Any]
    x: "np.ndarray"
    y: "np.ndarray"


def load(path: str, count: int, data_dir: str | None, *, train: bool = False) -> Subject:
    """Loads an export and the first images of its data set.

    Args:
        path: of the export, or `UNTRAINED`: a small LeNet and random images; all but one are right.
        count: number of images.
        data_dir: folder of prepared data sets.
        train: whether the images are those of the training. Defaults to those of the test.

    Raises:
        UsageError: there is no such export, or no data.
    """
    from advtf.classifiers.classifier import as_classifier
    from advtf.data import sets as data
    from advtf.data.arrays import to_unit_float
    from advtf.training.presets import order_as_trained

    if path == UNTRAINED:
        return _untrained(count)
    try:
        classifier = as_classifier(path, movable=True)
    except UsageError as error:
        command = CLASSIFIERS.get(path)
        raise UsageError(
            f"{error}{f' Make it with --prepare, which runs {command}.' if command else ''}"
        ) from None
    training = classifier.config
    order = order_as_trained(training, training["dataset"])
    if train:
        size = training["image_size"]
        images = data.load(training["dataset"], data_dir, image_size=size, order=order).train
        images = images.select(slice(count))
    else:
        images, _ = data.load_test(training["dataset"], data_dir, order=order, first=count)
    return Subject(classifier, training, to_unit_float(images.images).numpy(), images.labels)


def _untrained(count):
    import numpy as np

    from advtf.classifiers.classifier import as_classifier
    from advtf.models import build

    model = build("lenet", SMALL_SHAPE, SMALL_CLASSES, width=SMALL["width"])
    x = np.random.default_rng(0).random((count, *SMALL_SHAPE), np.float32)
    y = np.asarray(model(x, training=False)).argmax(axis=1).astype(np.int32)
    y[0] = (y[0] + 1) % SMALL_CLASSES
    return Subject(as_classifier(model, movable=True), SMALL, x, y)
