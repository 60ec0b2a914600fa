"""``python -m launch.reproduce``: every table, figure and claim of both papers, with a verdict.

Read `entry` and then `liu2020` first: an entry declares its runs, what is measured on them, and the claims
that are judged by it. `scales` has all sizes in one place.

entry     what an entry of the ledger is
scales    what each scale changes of the papers' settings
plan      the runs of the entries: a directory for each command, shared where it is the same
liu2020   the entries of Liu et al. 2020
li2023    the entries of Li & Spratling 2023
readings  what entries read from the files of their runs
verdicts  whether a claim holds: pure functions of what was measured, by seed
columns   what the values are called in tables and sentences, with their units
ledger    the results, a small JSON file for each entry and scale
report    the page of all results and its figures, from these files only
cost      what an entry will cost, estimated from measured steps
registry  all entries by name
"""
