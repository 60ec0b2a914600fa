"""Adversarial attacks as pure functions.

An attack is a function ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``. It searches the ε-ball around
each image for a point that the classifier gets wrong. It knows the classifier only as `logits_fn`, a function
of images, so the same code attacks a Keras model, an ensemble, a reloaded SavedModel and a model at perturbed
weights. A builder such as ``pgd(norm, steps, ...)`` checks the settings and returns the attack. Randomness
comes from the seed alone: the same call gives the same bits.

Read `attack` first (the interface, and what every attack does alike), then `norms` (what a gradient attack
has to know about a norm), then `pgd`, which is a short loop over these two.

==============  ====================================================================================
attack          the types `LogitsFn` and `Attack`; input gradients; gradient passes inside a loop
norms           ℓ∞ and ℓ2: size of a perturbation, random point, steepest step, projection
losses          what an attack climbs: cross-entropy, margin, DLR and targeted DLR, KL divergence
random          random numbers that belong to an example and not to its row in a batch
pgd             projected gradient ascent, FGSM, and FGSM from a noised image
apgd            Auto-PGD and its targeted form
fab             the smallest perturbation, by projections on the linearised decision boundary
square          random search over square patches, from logits alone
degraded        attacks made weaker on purpose
robust_error    clean and robust error of a classifier under one attack
==============  ====================================================================================

The attacks of an evaluation (`advtf.evaluation.attacks`) and the adversaries of a training are built from
these functions.
"""
