"""What holds for every test: threads, Ctrl-C, and the order in which files go to the test processes."""

import gc
import os
import signal

from advtf import runtime

# Two test processes on two cores would only fight over BLAS threads. NumPy reads this when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# TensorFlow starts as in a command. The process that only hands out the tests does not need it.
if "PYTEST_XDIST_WORKER" in os.environ:
    runtime.import_tensorflow()

# Graphs are many small objects that live long. To look for cycles among them as often as Python does by
# itself takes a twentieth of the time.
gc.set_threshold(10_000, 10, 10)

# A shell that starts the tests in the background lets them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST_FOLDERS = ("commands", "docs", "training", "evaluation")


def pytest_collection_modifyitems(items):
    """Puts the folders with the longest files first, so that no process ends alone with one of them."""
    items.sort(key=lambda item: item.path.parent.name not in LONGEST_FOLDERS)
