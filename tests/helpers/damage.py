"""Damaged JSON files: one entry after another gets a value of another type."""

import copy

VALUES = (None, True, -1, 1.5, float("inf"), 10**30, "", "x", [], ["a"], {"a": 1})


def entries(content, path=()):
    """Yields the path of every entry of a JSON value, the value itself first."""
    yield path
    if isinstance(content, dict):
        for name, value in content.items():
            yield from entries(value, (*path, name))


def replaced(content, path, value):
    """Returns a copy of a JSON value with another value at `path`."""
    if not path:
        return value
    content = copy.deepcopy(content)
    inner = content
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return content


def damaged(content, values=VALUES):
    """Yields (path, value, content with that value there) for every entry and every value."""
    for path in entries(content):
        for value in values:
            yield path, value, replaced(content, path, value)
