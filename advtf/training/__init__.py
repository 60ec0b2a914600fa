"""Adversarial training: trainer, objectives, optimizers, schedules, callbacks, checkpoints."""
