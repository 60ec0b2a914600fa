"""An attack of one's own in an evaluation: the best of several random corners of the ball."""

import keras
import tensorflow as tf

import advtf
from advtf.attacks.random import uniform
from advtf.evaluation.attacks import ATTACKS, EvaluationAttack


def random_corner(logits_fn, x, y, epsilon, seed):
    """Moves every pixel to one of the two ends of its interval [x − ε, x + ε]."""
    signs = tf.sign(uniform(tf.shape(x), seed) - 0.5)
    return tf.clip_by_value(x + epsilon * signs, 0.0, 1.0)


ATTACKS["corner"] = EvaluationAttack(
    label="Corner",
    stages=lambda builder: [builder.stage(random_corner, forward=0, backward=0)] * builder.settings.restarts,
    black_box=True,
)

if __name__ == "__main__":
    data = advtf.load_data("digits")
    model = advtf.build_model("lenet", data.input_shape, data.num_classes, width=2)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(data.train.images, data.train.labels, epochs=5, verbose=0)
    images, labels = data.test.images[:100], data.test.labels[:100]
    print(advtf.evaluate(model, images, labels, attacks=["corner", "pgd"], epsilon=0.1, restarts=5))
