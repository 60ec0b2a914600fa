"""The package's arithmetic in float64, so that a reference in float64 is met to its last digits.

Images, ε and losses are float32 in the package. A difference of 1e-7 there turns the sign of a gradient near
zero, and two trainings or two attacks that do the same part for good. In float64 they stay together.
"""

import sys

import keras
import pytest
import tensorflow as tf


class Float64TensorFlow:
    """The module `tensorflow` with float64 in the place of float32."""

    float32 = tf.float64

    def __getattr__(self, name):
        return getattr(tf, name)

    @staticmethod
    def constant(value, dtype=None):
        return _widened(tf.constant(_number(value), dtype))

    @staticmethod
    def convert_to_tensor(value, dtype=None):
        tensor = _widened(tf.convert_to_tensor(_number(value)))
        return tensor if dtype is None else tf.cast(tensor, dtype)

    @staticmethod
    def where(condition, chosen, other):
        return tf.where(condition, *map(_number, (chosen, other)))

    @staticmethod
    def minimum(first, second):
        return tf.minimum(*map(_number, (first, second)))

    @staticmethod
    def maximum(first, second):
        return tf.maximum(*map(_number, (first, second)))


def _widened(tensor):
    return tf.cast(tensor, tf.float64) if tensor.dtype == tf.float32 else tensor


def _number(value):
    return tf.constant(value, tf.float64) if isinstance(value, float) else value


@pytest.fixture
def float64(monkeypatch):
    """Models are built and everything imported from `advtf` computes in float64, for one test."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    for name, module in list(sys.modules.items()):
        if name.startswith("advtf.") and getattr(module, "tf", None) is tf:
            monkeypatch.setattr(module, "tf", Float64TensorFlow())
    yield
    keras.config.set_dtype_policy(before)
