"""Gradient ascent with momentum (MI-FGSM, Dong et al. 2018) as a training adversary of one's own, for l∞.

python docs/examples/own_adversary.py --adversary=momentum --attack_steps=5
"""

from runpy import run_module

from advtf.training.methods import ADVERSARIES, AdversaryEntry


def momentum(steps, relative_step, loss, decay=0.9):
    """Builds the attack; each step is ε · relative_step along the sign of the accumulated gradient."""
    import tensorflow as tf

    from advtf.attacks.attack import input_gradient

    def attack(logits_fn, x, y, epsilon, seed):
        delta, velocity = tf.zeros_like(x), tf.zeros_like(x)
        for _ in range(steps):
            gradient = input_gradient(logits_fn, tf.clip_by_value(x + delta, 0.0, 1.0), y, loss)
            size = tf.reduce_mean(tf.abs(gradient), axis=(1, 2, 3), keepdims=True)
            velocity = decay * velocity + tf.math.divide_no_nan(gradient, size)
            delta = tf.clip_by_value(delta + relative_step * epsilon * tf.sign(velocity), -epsilon, epsilon)
        return tf.stop_gradient(tf.clip_by_value(x + delta, 0.0, 1.0))

    return attack


ADVERSARIES["momentum"] = AdversaryEntry(
    build=lambda config, loss: momentum(config.attack_steps, config.relative_step, loss),
    single_step=False,
    starts_at_clean=lambda config: True,
)

if __name__ == "__main__":
    run_module("advtf.main", run_name="__main__")
