"""Wall times of two things that are compared with each other."""

import time
from collections.abc import Callable


def seconds_of(call: Callable) -> float:
    """Returns the wall time of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def timed_in_turn(first: Callable, second: Callable, rounds: int) -> tuple[tuple[float, float], ...]:
    """Returns the seconds of both in every round; every other round begins with the second."""
    pairs = []
    for number in range(rounds):
        order = (first, second) if number % 2 == 0 else (second, first)
        spent = {call: seconds_of(call) for call in order}
        pairs.append((spent[first], spent[second]))
    return tuple(pairs)
