"""Benchmarks: what things cost, and whether other libraries find the same, as one suite.

``python -m launch.benchmarks --list`` says what the entries compare. An entry is a module with a function
``compare`` and a line in the registry; read `launch.common.benchmark` for the format of what it yields.

registry          the entries by name, with what they need and their options
report            the figure and the table of all results
step              a training step against PyTorch, and against its bare arithmetic
fit               what a training does outside its compiled steps
objectives        the step of every objective against that of plain adversarial training
attacks           PGD and APGD against their bare passes and against ART
autoattack        standard AutoAttack against torchattacks and the official package
attack_strength   robust error of one classifier under the three libraries
hessian           Hessian-vector products against gradients, Lanczos against power iteration
gpu               training and evaluation in every mode of a GPU: right numbers, and costs
pipeline          the input pipeline alone against the training steps
start             the README's default run as a whole process

Entries that compare with other libraries need ``pip install ".[compare]"``.
"""
