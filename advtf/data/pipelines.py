"""What all pipelines of tf.data here have in common."""

import tensorflow as tf


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a dataset whose iterators end at once.

    By default a thread of every iterator tunes how many calls are made in parallel. It rests for ever longer,
    up to a minute, and the iterator waits for it at its end. TensorFlow (2.21) wakes it before it marks the
    iterator as ended, so that on a busy machine the thread may look too early and rest on: a training stands
    still for up to a minute when it is done. Without that thread AUTOTUNE means as many calls as there are
    cores, and a buffer that grows while it is found empty.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
