"""Cost of one adversarial training step against the bare arithmetic, and of everything else `fit` does.

    python -m launch.benchmarks.step [--rounds 5] [--jit off]

ResNet18 w=8, batch 128, PGD-10, float32, on random images. The bare step is one `tf.function` with the same
arithmetic: 10 input gradients, one forward and backward pass for the weights, one SGD update; nothing is
measured or logged in it. Both are timed in turn, and the median of the ratios is printed. Then a real run of
`--fit_steps` steps with all callbacks tells the time that is spent outside the compiled step, between steps
and at the end of an epoch, scaled to the 390 steps of a CIFAR-10 epoch.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from advtf.runtime import start
from advtf.settings.commands import exit_on_usage_error
from advtf.training.directory import TrainingDirectory
from advtf.training.settings import RunOptions, TrainConfig
from launch.common.arguments import parser
from launch.common.timing import timed_in_turn

EPOCH_STEPS = 390  # 50,000 images in batches of 128


def bare_step(classifier, config, rate=0.1, momentum=0.9):
    """Returns a compiled function (x, y) -> loss with the arithmetic of one step and nothing else."""
    import tensorflow as tf

    weights = [variable.value for variable in classifier.trainable_variables]
    buffers = [tf.Variable(tf.zeros_like(weight)) for weight in weights]
    epsilon, step = config.eps, config.eps * config.relative_step

    def loss(logits, y):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)

    @tf.function
    def run(x, y):
        def ascend(i, x_adv):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x_adv)
                total = tf.reduce_sum(loss(classifier(x_adv, training=False), y))
            moved = x_adv + step * tf.sign(tape.gradient(total, x_adv))
            return i + 1, tf.clip_by_value(tf.clip_by_value(moved, x - epsilon, x + epsilon), 0.0, 1.0)

        _, x_adv = tf.while_loop(lambda i, _: i < config.attack_steps, ascend, (0, x))
        with tf.GradientTape() as tape:
            mean = tf.reduce_mean(loss(classifier(x_adv, training=True), y))
        for weight, buffer, gradient in zip(weights, buffers, tape.gradient(mean, weights), strict=True):
            buffer.assign(momentum * buffer + gradient + config.weight_decay * weight)
            weight.assign_sub(rate * buffer)
        return mean

    return run


def compare_steps(config, data, runtime, rounds):
    """Times bare and real steps in turn; returns (bare seconds, real seconds), one entry a round."""
    import tensorflow as tf

    from advtf.training.run import build_classifier, build_trainer

    trainer = build_trainer(config, data, runtime)
    trainer.make_train_function()
    x = tf.constant(data.train.images[: config.batch_size])
    y = tf.constant(data.train.labels[: config.batch_size])
    bare = bare_step(build_classifier(config, data), config)
    repeated = iter(tf.data.Dataset.from_tensors((x, y)).repeat())
    bare(x, y), trainer.train_function(repeated)  # trace
    pairs = timed_in_turn(lambda: bare(x, y), lambda: trainer.train_function(repeated), rounds)
    return zip(*pairs, strict=True)


def fit_overhead(config, data, runtime):
    """Runs one epoch with every callback; returns seconds (in steps, between steps, at the epoch's end)."""
    from advtf.training.run import build_trainer, train

    trainer = build_trainer(config, data, runtime)
    trainer.make_train_function()
    step, spans = trainer.train_function, []

    def timed(iterator):
        begin = time.perf_counter()
        logs = step(iterator)
        spans.append((begin, time.perf_counter()))
        return logs

    trainer.train_function = timed
    with tempfile.TemporaryDirectory() as folder:
        train(trainer, config, RunOptions.of({}), TrainingDirectory(Path(folder)), data)
        end = time.perf_counter()
    steps = sum(after - before for before, after in spans[1:])  # the first step traces
    between = spans[-1][1] - spans[0][1] - steps
    return steps, between, end - spans[-1][1]


def main():
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--fit_steps", type=int, default=11)
    made.add_argument("--jit", default="auto")
    chosen = made.parse_args()
    runtime = start(jit=chosen.jit)

    from advtf.data.sets import from_arrays

    rng = np.random.default_rng(0)
    x = rng.random((128 * chosen.fit_steps, 32, 32, 3), np.float32)
    y = rng.integers(0, 10, len(x)).astype(np.int32)
    data = from_arrays(x, y, x[:8], y[:8], num_classes=10)
    config = TrainConfig.of({"dataset": "cifar10", "model": "resnet18", "epochs": 1, "eps_sched": "constant"})
    attack = f"PGD-{config.attack_steps}"
    print(f"{runtime.device}; resnet18 w={config.width}, batch {config.batch_size}, {attack}")

    bare, real = compare_steps(config, data, runtime, chosen.rounds)
    ratios = [b / a for a, b in zip(bare, real, strict=True)]
    print(f"bare step  {statistics.median(bare):.3f} s   advtf step  {statistics.median(real):.3f} s")
    print(f"ratio      {statistics.median(ratios):.3f} (min {min(ratios):.3f}, max {max(ratios):.3f})")

    steps, between, end = fit_overhead(config, data, runtime)
    counted = chosen.fit_steps - 1
    epoch = EPOCH_STEPS * steps / counted
    overhead = EPOCH_STEPS * between / counted + end
    print(
        f"fit        {1000 * between / counted:.1f} ms between steps, {end:.2f} s at the epoch's end: "
        f"{100 * overhead / epoch:.2f} % of an epoch of {EPOCH_STEPS} steps"
    )


if __name__ == "__main__":
    with exit_on_usage_error():
        main()
