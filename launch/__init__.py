"""What is done with the commands of `advtf`: the ledger of both papers, sweeps, and benchmarks.

Everything here is started from the root of the repository and answers ``--help``. Read
`launch.reproduce.entry` first: an entry of the ledger is a table of runs, what is measured on them, and the
claims that are judged by it.

sweep         a table of settings, axes and seeds becomes runs, here or on a Ray cluster
cluster       one training by several workers, here or on a Ray cluster, started again where one is killed
reproduce     the ledger: every table, figure and claim of both papers, with a verdict
experiments   every training objective at equal settings
benchmarks    speed and agreement: against the bare arithmetic, and against other libraries
common        what the scripts share; nothing in it is started
"""
