"""Adversarial logit pairing (Kannan et al. 2018) as an objective of one's own.

python docs/examples/own_objective.py --objective=logit_pairing --strength=0.5
"""

from runpy import run_module

from advtf.training.methods import OBJECTIVES, ObjectiveEntry, Strength


def logit_pairing(strength):
    """L(x') + λ ‖f(x) − f(x')‖² of each example."""
    import tensorflow as tf

    from advtf.attacks.losses import cross_entropy
    from advtf.training.objectives import accuracies

    def losses(logits_fn, batch):
        clean, robust = logits_fn(batch.x), logits_fn(batch.x_adv)
        distance = tf.reduce_sum(tf.square(clean - robust), axis=-1)
        total = cross_entropy(batch.y, robust) + batch.strength * strength * distance
        return total, accuracies(batch.y, clean, robust)

    return losses


OBJECTIVES["logit_pairing"] = ObjectiveEntry(
    build=lambda config, num_classes: logit_pairing(config.strength),
    strength=Strength(single_step=0.5, multi_step=0.5),
)

if __name__ == "__main__":
    run_module("advtf.main", run_name="__main__")
