"""``python -m launch.sweep TABLE``: a table of settings becomes runs of ``python -m advtf.main``.

Read `table` first, which says what a table looks like. `launch.common.driver` brings the runs to their ends.

table     a file of settings, axes and seeds becomes runs, which are checked before anything starts
results   what the runs have found: a row for each, mean ± standard deviation over seeds, TensorBoard's
HParams
"""
