"""Benchmarks: what things cost, and whether other libraries find the same; each answers ``--help``.

step              a training step against its bare arithmetic, and what else `fit` does
objectives        the step of every objective against that of plain adversarial training
hessian           Hessian-vector products against gradients, Lanczos against power iteration
attacks           speed of attacks: advtf, ART and torchattacks
attack_strength   robust error of one classifier under the three libraries

`attacks` and `attack_strength` need ``pip install ".[compare]"``.
"""
