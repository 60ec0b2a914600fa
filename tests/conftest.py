"""Set before NumPy is imported: with two test processes on two cores, BLAS threads only get in each other's way."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
