"""Lets ``advtf.evaluate`` be a function and ``python -m advtf.evaluate`` a command, of one file."""

import types


class CallableModule(types.ModuleType):
    """A module that, when called, calls the function that has its name."""

    def __call__(self, *args, **kwargs):
        function = getattr(self, self.__name__.rpartition(".")[2])
        return function(*args, **kwargs)
