"""Set before NumPy is imported: two test processes on two cores would only fight over BLAS threads."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
