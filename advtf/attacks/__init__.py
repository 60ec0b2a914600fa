"""Attacks as pure functions ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``: PGD, APGD, FAB, Square."""
