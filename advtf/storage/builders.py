"""Built functions that Keras can write to a file and build again.

An attack and an objective are closures over their settings, which no file format holds. What a file can hold
is the name of the builder and its arguments. `recorded` makes a builder remember both for everything that it
returns, and `serialized` writes them in the form that `keras.saving.deserialize_keras_object` reads.
"""

import functools
import importlib
import inspect
import weakref
from collections.abc import Callable, Mapping

import keras
import numpy as np

from advtf.errors import UsageError

# By the built object, which it does not keep alive. An attribute would be wrong: a function that
# functools.wraps puts around an attack would have it too, and is another attack.
_CALLS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_PLAIN = (type(None), bool, int, float, str)


def recorded(builder: Callable) -> Callable:
    """Makes a builder remember its arguments for everything it returns, and registers it with Keras.

    Args:
        builder: a function at the top of its module whose arguments are numbers, texts, sequences of them,
            registered functions, or what other recorded builders return.

    Returns:
        The builder, registered as ``<package>><name>``, such as ``advtf>pgd``.

    Examples:
        ```python
        from advtf.storage.builders import recorded

        @recorded
        def shifted(steps):
            def attack(logits_fn, x, y, epsilon, seed):
                ...
            return attack
        ```
    """
    signature = inspect.signature(builder)

    @functools.wraps(builder)
    def build(*args, **kwargs):
        made = builder(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        _CALLS[made] = BuilderCall(build, bound.arguments)
        return made

    package = builder.__module__.split(".", 1)[0]
    return keras.saving.register_keras_serializable(package)(build)


@keras.saving.register_keras_serializable("advtf")
class BuilderCall:
    """One call of a builder that `recorded` has registered.

    Args:
        builder: the registered builder.
        arguments: all of its arguments by name, the defaults included.
    """

    def __init__(self, builder: Callable, arguments: Mapping):
        self.builder, self.arguments = builder, dict(arguments)

    def get_config(self) -> dict:
        """Returns the builder's registered name, its module and its arguments in the form of Keras.

        Raises:
            UsageError: an argument cannot be written.
        """
        name = self.builder.__name__
        return {
            "builder": keras.saving.get_registered_name(self.builder),
            "module": self.builder.__module__,
            "arguments": {
                key: serialized(f"{key} of {name}", value) for key, value in self.arguments.items()
            },
        }

    @classmethod
    def from_config(cls, config: dict):
        """Calls the builder again, and returns what it returns.

        Raises:
            UsageError: nothing is registered under the builder's name.
        """
        if config["module"].startswith("advtf."):  # only our own modules are imported because a file says so
            importlib.import_module(config["module"])
        builder = keras.saving.get_registered_object(config["builder"])
        if builder is None:
            raise UsageError(
                f"the builder {config['builder']} must be registered before the file is loaded. "
                f"Received: no such name. Import {config['module']} first."
            )
        arguments = config["arguments"].items()
        return builder(**{key: keras.saving.deserialize_keras_object(value) for key, value in arguments})


def builder_call(made: object) -> BuilderCall | None:
    """Returns the call that made what a recorded builder has returned; None for anything else."""
    try:
        return _CALLS.get(made)
    except TypeError:  # it cannot be referenced weakly, or has no hash
        return None


def is_known(kind: object) -> bool:
    """Returns whether Keras finds a class or a function by its name: its own ones, and those registered."""
    if kind.__module__.startswith("keras."):
        return True
    return keras.saving.get_registered_object(keras.saving.get_registered_name(kind)) is kind


def serialized(what: str, value: object):
    """Returns `value` in the form that `keras.saving.deserialize_keras_object` reads.

    Args:
        what: what a message calls it.
        value: None, a number, a text, a sequence of these, a function of Keras or registered with it, an
            object of such a class with ``get_config``, or what a recorded builder has returned.

    Raises:
        UsageError: it is something else, such as a function that is not registered, or a Keras layer, whose
            weights would be lost.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return [serialized(what, item) for item in value]
    call = builder_call(value)
    if call is not None:
        return keras.saving.serialize_keras_object(call)
    kind = value if inspect.isfunction(value) else type(value)
    if isinstance(value, keras.layers.Layer) or not is_known(kind):
        raise UsageError(
            f"{what} must be known to Keras to be saved with the trainer. "
            f"Received: {getattr(value, '__name__', kind.__name__)}, which is not. Decorate the function "
            "with keras.saving.register_keras_serializable(), or save trainer.classifier, or call "
            "trainer.save_weights."
        )
    return keras.saving.serialize_keras_object(value)
