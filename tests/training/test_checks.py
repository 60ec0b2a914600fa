"""What a trainer refuses before the first step: images, labels, weights, classifiers, sources of batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.trainer import SHAPE, STILL, batch, compiled, dense_net, still

from advtf.attacks.losses import kl_divergence
from advtf.attacks.pgd import pgd
from advtf.errors import UsageError
from advtf.training import objectives, regularizers
from advtf.training.trainer import AdversarialTrainer

X, Y = batch(6)[0], np.arange(6) % 3


def with_value(value):
    images = X.copy()
    images[4, 0, 1, 0] = value
    return images


# What is given as x and y, and what the message says.
STRUCTURES = {
    "whole numbers": ((255 * X).astype(np.int32), Y, "dtype int32. If they are 0..255, use astype"),
    "dictionary": ({"image": X, "label": Y}, Y, "dictionary of image, label. Map"),
    "two inputs": ((X, X), Y, "Received: a tuple of 2"),
    "height": (X[:, :1], Y, r"\(None, 2, 3, 1\). Received: .*1, 3, 1\)"),
    "channels first": (X.transpose(0, 3, 1, 2), Y, "Move the channels behind"),
    "one-hot": (X, np.eye(3)[Y], r"labels must .* shape \(.*, 3\). Use argmax"),
    "float labels": (X, Y.astype(np.float32), "labels must .* dtype float32. Use y.astype"),
    "truth values": (X, Y > 1, "labels must .* dtype bool"),
    "dictionary of labels": (X, {"a": Y}, "labels must .* dictionary of a"),
}
VALUES = {
    "up to 255": (255 * X, Y, r"images must be finite and in \[0, 1\]. .* Divide by 255"),
    "below 0": (2 * X - 1, Y, r"images must be finite and in \[0, 1\]"),
    "not a number": (with_value(np.nan), Y, r"values in \[nan, nan\]"),
    "infinite": (with_value(np.inf), Y, r"values in \[.*, inf\]"),
    "class 3 of 3": (X, Y + 1, r"labels must be in \[0, 3\). .*, 3\]"),
    "class -1": (X, Y - 1, r"labels must be in \[0, 3\). Received: labels in \[-1, "),
}


def dataset(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(6)


class Loader(keras.utils.PyDataset):
    """One batch."""

    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.arrays


class Plain:
    """A loader of batches that knows no Keras."""

    def __init__(self, *arrays):
        self.arrays = arrays

    def __len__(self):
        return 1

    def __iter__(self):
        return iter([self.arrays])


SOURCES = {
    "generator": lambda x, y: (pair for pair in [(x, y)]),
    "PyDataset": Loader,
    "loader": Plain,
}


@pytest.fixture(scope="module")
def trainer():
    return compiled(rate=0.1)


def refused(trainer, message, *given, **settings):
    before = trainer.get_weights()
    for act in (trainer.fit, trainer.evaluate):
        with pytest.raises(UsageError, match=message) as error:
            act(*given, verbose=0, **settings)
        assert "\n" not in str(error.value) and "Received: " in str(error.value)
    for kept, now in zip(before, trainer.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)


@pytest.mark.parametrize("name", [*STRUCTURES, *VALUES])
def test_refused_arrays(trainer, name):
    x, y, message = {**STRUCTURES, **VALUES}[name]
    refused(trainer, message, x, y)
    with pytest.raises(UsageError, match=message):
        trainer.fit(X, Y, validation_data=(x, y), verbose=0)
    with pytest.raises(UsageError, match=message):
        trainer.train_on_batch(x, y)
    with pytest.raises(UsageError, match=message):
        trainer.test_on_batch(x, y)
    if name not in ("one-hot", "float labels") and y is Y:
        with pytest.raises(UsageError, match=message):
            trainer.predict(x, verbose=0)


@pytest.mark.parametrize("name", [*STRUCTURES, *VALUES])
def test_refused_datasets(trainer, name):
    x, y, message = {**STRUCTURES, **VALUES}[name]
    refused(trainer, message, dataset(x, y))
    if name in STRUCTURES:
        with pytest.raises(UsageError, match=message):
            trainer.fit(X, Y, validation_data=dataset(x, y), verbose=0)


@pytest.mark.parametrize("source", ["generator", "PyDataset", "loader"])
def test_refused_sources(trainer, source):
    for x, y, message in (VALUES["up to 255"], VALUES["class -1"], STRUCTURES["one-hot"]):
        for act in (trainer.fit, trainer.evaluate):
            with pytest.raises(UsageError, match=message):
                act(SOURCES[source](x, y), verbose=0)


def test_a_later_batch_of_a_dataset_is_found_when_it_is_drawn():
    trainer = compiled()
    data = tf.data.Dataset.from_tensor_slices((with_value(2.0), Y)).batch(2)
    with pytest.raises(UsageError, match="images must be finite"):
        trainer.fit(data, verbose=0)
    before = compiled()
    before.fit(data.take(2), verbose=0)  # the third is not trained on
    for one, other in zip(trainer.classifier.get_weights(), before.classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("source", ["generator", "PyDataset", pytest.param("torch", marks=pytest.mark.slow)])
def test_a_checked_source_gives_every_batch(source):
    if source == "torch":
        torch = pytest.importorskip("torch")
        pairs = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
        given = torch.utils.data.DataLoader(pairs, batch_size=6)
    else:
        given = SOURCES[source](X, Y)
    trained = []
    for data in (given, still(X, Y, 6)):
        trainer = compiled()
        trainer.fit(data, verbose=0, shuffle=False)
        trained.append(trainer.get_weights())
    for one, other in zip(*trained, strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_refused_data(trainer):
    cases = [
        ((X,), {}, "labels must be given"),
        (
            (tf.data.Dataset.from_tensor_slices((X, Y)),),
            {},
            r"Received: \(2, 3, 1\). Add the dimension of the batch",
        ),
        ((X[:0], Y[:0]), {}, "at least one image"),
        ((X, Y), {"sample_weight": np.full(6, -1.0)}, r"sample weights must .* \[-1, -1\]"),
        ((X, Y), {"sample_weight": np.full(6, np.nan)}, r"sample weights must .* \[nan, nan\]"),
        ((X, Y), {"sample_weight": np.ones((6, 3))}, r"sample weights must be \(batch,\)"),
        ((X, Y), {"sample_weight": [1.0] * 6}, r"sample weights must be one array .* a list of 6"),
        ((None, Y), {}, "images must be given"),
        ((tf.ragged.constant([[1.0], [0.5, 0.2]]), Y), {}, "must be dense"),
    ]
    for given, settings, message in cases:
        refused(trainer, message, *given, **settings)
    for weight, message in (
        ({3: 1.0}, r"class numbers in \[0, 3\) as its keys\. Received: 3"),
        ({"a": 1.0}, "Received: 'a'"),
        ([1.0, 2.0, 1.0], "class_weight must be a dictionary .* a list"),
        ({0: -1.0}, r"class_weight\[0\] must"),
    ):
        with pytest.raises(UsageError, match=message):
            trainer.fit(X, Y, class_weight=weight, verbose=0)
    pair = compiled(objective=regularizers.consistency())
    with pytest.raises(UsageError, match="images must be a pair"):
        pair.fit(X, Y, verbose=0)


def test_weights_of_classes_and_grey_images_are_accepted():
    # Keras adds the missing channel; a class of weight 0 is as if it were not there.
    x, y = batch(9)
    whole, part = compiled(), compiled()
    whole.fit(x[..., 0], y, batch_size=9, class_weight={0: 0.0}, verbose=0, shuffle=False)
    part.fit(x, y, batch_size=9, sample_weight=(y != 0).astype(np.float32), verbose=0, shuffle=False)
    for one, other in zip(whole.get_weights(), part.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_bytes_are_divided_by_255():
    levels = np.random.default_rng(1).integers(0, 256, X.shape).astype(np.uint8)
    unit = levels / np.float32(255)
    trained = []
    for x in (levels, unit):
        trainer = compiled()
        trainer.fit(dataset(x, Y), validation_data=(x, Y), verbose=0)
        predicted = trainer.predict(x, verbose=0)
        trained.append([*trainer.get_weights(), predicted, trainer.evaluate(x, Y, verbose=0)])
    for one, other in zip(*trained, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)  # a graph may multiply by 1/255 instead


def two_inputs():
    first, second = keras.Input(SHAPE), keras.Input(SHAPE)
    return keras.Model([first, second], keras.layers.Dense(3)(keras.layers.Flatten()(first + second)))


def rescaled(scale, *before):
    return keras.Sequential([keras.Input(SHAPE), *before, keras.layers.Rescaling(scale), dense_net()])


def one_logit():
    return keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(1)])


TRAINERS = {
    "ε of bytes": (lambda: {"epsilon": 8}, "epsilon must .* 8 probably means 8/255"),
    "ε of evaluation": (lambda: {"eval_epsilon": 8.0}, "eval_epsilon must .* 8 probably means 8/255"),
    "single logit": (lambda: {"classifier": one_logit()}, "Received: a single one"),
    "two inputs": (lambda: {"classifier": two_inputs()}, "Received: 2 inputs"),
    "pixels up to 255": (lambda: {"classifier": rescaled(1 / 255)}, "scale 0.00392, for pixels up to 255"),
    "attack on classes": (lambda: {"objective": objectives.trades()}, "attack must climb a divergence"),
    "attack in evaluation": (
        lambda: {"objective": objectives.trades(), "attack": pgd(loss=kl_divergence)},
        "eval_attack must climb a loss of the classes",
    ),
}


@pytest.mark.parametrize("name", TRAINERS)
def test_refused_trainers(name):
    given, message = TRAINERS[name]
    with pytest.raises(UsageError, match=message) as error:
        AdversarialTrainer(**{"classifier": dense_net(), "attack": STILL, "epsilon": 0.1, **given()})
    assert "\n" not in str(error.value) and "Received: " in str(error.value)


def test_accepted_trainers():
    AdversarialTrainer(rescaled(1 / 255, keras.layers.Rescaling(255.0)), STILL, 0.1)
    AdversarialTrainer(dense_net(), pgd("l2"), 8.0)


class OwnModel(keras.Model):
    """A subclassed classifier, which does not tell the shapes that it takes and gives."""

    def __init__(self, classes):
        super().__init__()
        self.dense = keras.layers.Dense(classes)

    def call(self, x):
        return self.dense(keras.ops.reshape(x, (-1, x.shape[1] * x.shape[2])))


def test_refused_data_of_a_subclassed_classifier():
    for classes, x, y, message in (
        (3, X, Y + 1, r"labels must be in \[0, 3\)"),
        (1, X, Y, "Received: a single one"),
        (3, 255 * X, Y, "Divide by 255"),
        (3, X[:, :1, :1], Y, r"classifier takes, \(None, 2, 3, 1\). Received: \(6, 1, 1, 1\)"),
    ):
        model = OwnModel(classes)
        model(X)
        refused(compiled(model), message, x, y)


def test_weights_that_cannot_be_trained_and_a_dtype_of_half_precision_are_refused():
    frozen = dense_net()
    frozen.trainable = False
    with pytest.raises(UsageError, match="all of them are frozen"):
        compiled(frozen).fit(X, Y, verbose=0)
    thawed = dense_net()
    thawed.layers[-1].trainable = False
    trainer = compiled(thawed)
    thawed.layers[-1].trainable = True
    with pytest.raises(UsageError, match=r"does not know\. Compile again"):
        trainer.fit(X, Y, verbose=0)
    half = keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(3, dtype="float16")]
    )
    with pytest.raises(UsageError, match=r"in float16\. Use the dtype policy"):
        compiled(half)
