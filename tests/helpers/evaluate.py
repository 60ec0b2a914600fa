"""What the tests of the evaluation share: a small trained network, few iterations, one export."""

from advtf.classifiers.export import export_classifier
from advtf.training.settings import TrainConfig
from helpers.attack import digits_network

EPSILON = 0.08
FEW = {"steps": 5, "targets": 1, "queries": 60, "batch_size": 32}
EXPORT = "saved_models/digits-run/last"


def digits():
    network, x, y = digits_network()
    return network.func, x, y


def export_digits(place):
    """Exports the network under `place` and returns `place`."""
    model, x, _ = digits()
    network = {"dataset": "digits", "width": 2, "activation": "softplus"}
    config = TrainConfig.of({**network, "eps": EPSILON, "attack_steps": 7}).to_json()
    export_classifier(model, place / EXPORT, metadata={"config": config}, sample=x[:4])
    return place
