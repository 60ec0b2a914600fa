"""What is done with the commands of `advtf`: sweeps, experiments of the two papers, and benchmarks.

Everything here is started from the root of the repository: a table of runs by
``python -m launch.sweep TABLE``, an experiment by ``python -m launch.experiments.<name>`` and all benchmarks
by ``python -m launch.benchmarks``. Every claim of both papers is judged by ``python -m launch.reproduce``.
Each answers ``--help``.

sweep         a table of settings, axes and seeds becomes runs, here or on a Ray cluster
cluster       one training by several workers, here or on a Ray cluster, started again where one is killed
reproduce     the ledger: every table, figure and claim of both papers, with a verdict
experiments   results of Liu et al. 2020 and Li & Spratling 2023
benchmarks    speed and agreement: against the bare arithmetic, and against other libraries
common        what the scripts share; nothing in it is started
"""
