"""Wall times of things that are compared with each other."""

import time
from collections.abc import Callable, Mapping


def seconds_of(call: Callable) -> float:
    """Returns the wall time of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


class Times(dict[str, list[float]]):
    """Seconds by name, one for each round."""

    def pairs(self, ours: str, other: str) -> list[tuple[float, float]]:
        """Returns the seconds of two of them, a pair a round."""
        return list(zip(self[ours], self[other], strict=True))


def timed_in_turn(calls: Mapping[str, Callable], rounds: int) -> Times:
    """Returns the seconds of all calls in every round; every other round goes through them backwards.

    So all of them meet the same state of the machine, and none always comes first.
    """
    times = Times({name: [] for name in calls})
    for number in range(rounds):
        for name in list(calls)[:: -1 if number % 2 else 1]:
            times[name].append(seconds_of(calls[name]))
    return times
