"""A training step of advtf against PyTorch, and against a bare `tf.function` with the same arithmetic.

Each network is trained on one batch of random images, PGD-10 or FGSM-N with the attack in inference mode and
SGD with momentum and L2 decay, on all sides from the same weights; that the logits are equal is checked
first.

paper          eager PyTorch, (B, C, H, W), float32, ``backward`` with gradients for all parameters in every
               iteration of the attack, as the code of Liu et al. 2020 does
best practice  eager PyTorch, channels-last, gradients for the images alone, float32 or bfloat16 by autocast
bare           one `tf.function` with the passes and the update, float32; nothing is measured or logged in it
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np

from launch.common.benchmark import Comparison
from launch.common.timing import seconds_of, timed_in_turn

WIDTHS = {"resnet18": 8, "lenet": 16, "preact_resnet18": 8}
ADVERSARIES = {"resnet18": "pgd", "lenet": "pgd", "preact_resnet18": "fgsm_n"}
SHAPES = {"lenet": (28, 28, 1)}  # CIFAR's otherwise
LABELS = {"resnet18": "ResNet18", "lenet": "LeNet", "preact_resnet18": "PreActResNet18"}
GOALS = {  # (network, precision of advtf, the other) -> the largest ratio that is aimed at
    ("resnet18", "bfloat16", "bfloat16"): 0.9,
    ("resnet18", "float32", "float32"): 0.85,
    ("resnet18", "bfloat16", "paper"): 1 / 5,
    ("lenet", "bfloat16", "bfloat16"): 0.45,
    ("preact_resnet18", "bfloat16", "bfloat16"): 0.9,
}
COMPARED = {  # what each of our steps is compared with
    "bfloat16": ("bfloat16", "compiled", "paper"),
    "float32": ("float32", "bare", "paper"),
}


def compare(options: SimpleNamespace) -> Iterator[Comparison]:
    """Yields the steps of every network in both precisions against every other."""
    for name in options.networks.split(","):
        yield from _network(name, options)


def _network(name, options):
    width, labels = options.width or WIDTHS[name], _labels()
    steps = Steps(name, width, options.batch_size, compiled=options.compile)
    for call in steps.calls.values():
        call()
    times = timed_in_turn(steps.calls, options.rounds)
    attack = "PGD-10" if ADVERSARIES[name] == "pgd" else "FGSM-N"
    for precision, others in COMPARED.items():
        for other in others:
            if other in times:
                yield Comparison(
                    what=f"{attack} step, {LABELS[name]} w={width}",
                    ours=f"advtf, {precision}",
                    against=labels[other],
                    pairs=times.pairs(f"advtf {precision}", other),
                    work=f"{options.batch_size} images",
                    goal=GOALS.get((name, precision, other)),
                    facts={"first_step_seconds": steps.first[f"advtf {precision}"]},
                )


def _labels():
    from launch.common.torch_training import STYLES

    return {name: style.label for name, style in STYLES.items()} | {"bare": "bare tf.function, float32"}


class Steps:
    """The steps of one network, by name: "advtf float32", "advtf bfloat16", "bare" and PyTorch's styles.

    Args:
        name: of the network.
        width: its width factor.
        batch_size: images of a step.
        compiled: whether ``torch.compile`` is among them.

    Attributes:
        calls: functions that make a step and return its loss.
        first: seconds of the first step of advtf, with its tracing.
    """

    def __init__(self, name: str, width: int, batch_size: int, *, compiled: bool = False):
        import torch

        from launch.common.peers import to_torch, torch_copy, use_all_cores
        from launch.common.torch_training import STYLES, training_step

        use_all_cores()
        rng, shape = np.random.default_rng(0), SHAPES.get(name, (32, 32, 3))
        self.x = rng.random((batch_size, *shape), np.float32)
        self.y = rng.integers(0, 10, batch_size).astype(np.int32)
        self._name, self._width = name, width
        self.calls: dict[str, Callable[[], float]] = {}
        self.first: dict[str, float] = {}
        for precision in COMPARED:
            self._add(precision)
        classifier, config = self._untrained()
        self.calls["bare"] = bare_step(classifier, config, self.x, self.y)
        for key, style in STYLES.items():
            if compiled or not style.compiled:
                network = torch_copy(classifier, name, width)
                y = torch.tensor(self.y, dtype=torch.int64)
                self.calls[key] = training_step(network, to_torch(self.x), y, style, recipe_of(config))

    def _config(self, precision):
        from advtf.training.settings import TrainConfig

        return TrainConfig.of(
            {
                "dataset": "cifar10", "model": self._name, "width": self._width, "augment": False,
                "batch_size": len(self.x), "adversary": ADVERSARIES[self._name], "eps": 8 / 255,
                "eps_sched": "constant", "epochs": 1, "optimizer": "sgd", "lr": 0.01, "lr_sched": "constant",
                "momentum": 0.9, "weight_decay": 5e-4, "precision": precision,
            }
        )  # fmt: skip

    def _data(self):
        from advtf.data.sets import from_arrays

        return from_arrays(self.x, self.y, self.x[:1], self.y[:1], num_classes=10)

    def _untrained(self):
        from advtf.training.run import build_classifier

        config = self._config("float32")
        return build_classifier(config, self._data()), config

    def _add(self, precision):
        import tensorflow as tf

        from advtf.runtime import start
        from advtf.training.run import build_trainer

        runtime = start(precision=precision)
        trainer = build_trainer(self._config(precision), self._data(), runtime)
        trainer.make_train_function()
        batches = iter(tf.data.Dataset.from_tensors((self.x, self.y)).repeat())

        def step():
            with runtime.training():
                return float(trainer.train_function(batches)["loss"])

        self.calls[f"advtf {precision}"] = step
        self.first[f"advtf {precision}"] = seconds_of(step)


def recipe_of(config):
    """Returns what a step of these settings computes, for PyTorch."""
    from launch.common.torch_training import Recipe

    return Recipe(
        config.adversary, config.eps, config.eps * config.relative_step, config.attack_steps,
        config.lr, config.momentum, config.weight_decay, random_start=config.random_start == "uniform",
    )  # fmt: skip


def bare_step(classifier, config, x: np.ndarray, y: np.ndarray) -> Callable[[], float]:
    """Returns a compiled function () -> loss with the arithmetic of one step and nothing else."""
    import tensorflow as tf

    weights = [variable.value for variable in classifier.trainable_variables]
    buffers = [tf.Variable(tf.zeros_like(weight)) for weight in weights]
    epsilon = config.eps
    single = config.adversary == "fgsm_n"
    step = epsilon if single else epsilon * config.relative_step

    def loss(logits, y):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)

    @tf.function
    def run(x, y):
        def moved(x_adv):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x_adv)
                total = tf.reduce_sum(loss(classifier(x_adv, training=False), y))
            return x_adv + step * tf.sign(tape.gradient(total, x_adv))

        def ascend(i, x_adv):
            inside = tf.clip_by_value(moved(x_adv), x - epsilon, x + epsilon)
            return i + 1, tf.clip_by_value(inside, 0.0, 1.0)

        start = tf.clip_by_value(x + tf.random.uniform(tf.shape(x), -epsilon, epsilon), 0.0, 1.0)
        if single:
            x_adv = tf.clip_by_value(moved(start), 0.0, 1.0)
        else:
            _, x_adv = tf.while_loop(lambda i, _: i < config.attack_steps, ascend, (0, start))
        with tf.GradientTape() as tape:
            mean = tf.reduce_mean(loss(classifier(x_adv, training=True), y))
        for weight, buffer, gradient in zip(weights, buffers, tape.gradient(mean, weights), strict=True):
            buffer.assign(config.momentum * buffer + gradient + config.weight_decay * weight)
            weight.assign_sub(config.lr * buffer)
        return mean

    images, labels = tf.constant(x), tf.constant(y)
    return lambda: float(run(images, labels))
