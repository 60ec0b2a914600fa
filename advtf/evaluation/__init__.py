"""Evaluations of a classifier's robustness by named attacks and suites such as AutoAttack.

Read `attacks` first: the registry of everything that can be measured, where an attack of one's own is one
more entry. Then read `engine`, which runs attacks on the examples that are left to them and keeps the worst
case.

=============  ======================================================================================
settings       everything that determines the numbers: attacks, norm, ε, iterations, seed
attacks        the registries `ATTACKS` and `SUITES`, and how each attack is cut into stages
engine         one evaluation from first batch to worst case; it can be killed and continued
sanity_checks  signs of masked gradients and other ways in which a low error flatters a classifier
sharing        one evaluation by several processes, with the bits of one
report         the result: table, JSON, files and figures
run            what ``python -m advtf.evaluate`` plans, loads and writes
=============  ======================================================================================

In Python, `advtf.evaluate` does it all in one call.
"""
