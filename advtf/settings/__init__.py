"""How a setting is declared once, and becomes a flag, its help, its check and its JSON.

- `fields`: parsers, `setting` and the base class `Settings`. Read it first.
- `threat`: the norms, the starts of PGD, and the ranges of ε and of an attack's step.
- `commands`: flags, ``--help``, one-line errors and the options that all commands share.

The settings themselves stand with what they configure: in `advtf.training.settings`,
`advtf.evaluation.settings` and `advtf.studies.settings`.
"""
