"""A schedule of one's own: ε rises with the square root of the progress, fast at first.

python docs/examples/own_schedule.py --eps_sched=root
"""

from runpy import run_module

from advtf.training.schedules import EPSILONS, EpsilonKind


def root_epsilon(t, minimum, maximum, target):
    """Returns (maximum − minimum)·√t + minimum, at most target; t is the progress within a period."""
    return min((maximum - minimum) * t**0.5 + minimum, target)


EPSILONS["root"] = EpsilonKind(root_epsilon)

if __name__ == "__main__":
    run_module("advtf.main", run_name="__main__")
