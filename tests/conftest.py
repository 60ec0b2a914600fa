"""What holds for every test: threads, Ctrl-C, and the order in which files go to the test processes."""

import os
import signal

from advtf import runtime

# Two test processes on two cores would only fight over BLAS threads. NumPy reads this when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Nor should TensorFlow's idle threads take the time of those that compute, as they do not in a command.
runtime._let_idle_threads_sleep()

# A shell that starts the tests in the background lets them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST_FOLDERS = ("commands", "docs", "training", "evaluation")


def pytest_collection_modifyitems(items):
    """Puts the folders with the longest files first, so that no process ends alone with one of them."""
    items.sort(key=lambda item: item.path.parent.name not in LONGEST_FOLDERS)
