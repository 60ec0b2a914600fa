"""Who the workers of a training are: TF_CONFIG read and refused before TensorFlow is imported."""

import json
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import command
from tensorflow import errors

from advtf.errors import UsageError
from advtf.training.checkpoint import TrainingInterrupted, stop_on_signals
from advtf.training.cluster import Cluster, WorkerLost, speaking
from advtf.training.settings import TrainConfig

TWO = {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}


def described(cluster, job="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})


def test_the_first_worker_is_the_chief(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", described(TWO, index=1))
    assert Cluster.of_process() == Cluster(("10.0.0.1:2222", "10.0.0.2:2222"), 1)
    assert not Cluster.of_process().chief
    monkeypatch.setenv("TF_CONFIG", described(TWO))
    assert Cluster.of_process().chief


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs the variable TF_CONFIG in every process. Received: none"),
        ("{", "Received: no JSON"),
        ("[]", "Received: no object 'cluster'"),
        ('{"cluster": {"worker": ["a:1"]}}', "Received: no object 'task'"),
        ('{"cluster": {}, "task": {}}', "Received: a cluster of nothing"),
        (described({"ps": ["a:1"], **TWO}), "Received: a cluster of ps, worker instead of a list of workers"),
        (described({"worker": "a:1"}), "Received: a cluster of worker instead of a list"),
        (described({"worker": []}), "Received: no address"),
        (described({"worker": ["a:1", "a:1"]}), "Received: an address twice"),
        (described({"worker": ["a"]}), "Received: the address a instead of host:port"),
        (described({"worker": ["a:0"]}), "Received: the address a:0"),
        (described({"worker": [7]}), "Received: the address 7"),
        (described(TWO, "chief"), "Received: a task of type chief instead of worker"),
        (described(TWO, index=2), "Received: the index 2 of 2 workers, counted from 0"),
        (described(TWO, index="0"), "Received: the index '0' of 2 workers"),
    ],
)
def test_what_does_not_describe_workers_is_refused(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UsageError, match=message):
        Cluster.of_process()


CHIEF, OTHER = "/job:worker/replica:0/task:0", "/job:worker/replica:0/task:1"
ABORTED = "Collective ops is aborted by:"
# What TensorFlow says, shortened, when a worker is killed or stands still.
LOST = [
    (f"{ABORTED} Connection reset by peer\nfrom remote target {OTHER} while calling", "1 (b:2)"),
    (f"These tasks are unhealthy (stopped sending heartbeats):\n{CHIEF}\nCheck the logs", "0 (a:1)"),
    (f"{ABORTED} Unexpected heartbeat request from an already-in-error task: {CHIEF} with existing "
     f"error: UNAVAILABLE: Task {OTHER} heartbeat timeout. This indicates that the remote task", "1 (b:2)"),
    (f"{ABORTED} Deadline Exceeded\nRPC: /tensorflow.CoordinationService/Heartbeat\nThe error", "0 (a:1)"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "worker"), LOST)
@pytest.mark.parametrize("kind", [errors.UnavailableError, errors.AbortedError])
def test_an_error_of_a_lost_worker_says_which(message, worker, kind):
    if "Deadline" in message:
        kind = errors.DeadlineExceededError
    with pytest.raises(WorkerLost) as lost, Cluster(("a:1", "b:2"), 0).watched():
        raise kind(None, None, message)
    assert f"Received: worker {worker}, which" in str(lost.value) and "\n" not in str(lost.value)


class Store:
    """What the workers leave for each other, as TensorFlow's coordination service keeps it."""

    def __init__(self):
        self.kept, self.added = {}, threading.Condition()

    def set_config_key_value(self, key, value):
        with self.added:
            self.kept[key] = value
            self.added.notify_all()

    def get_config_key_value(self, key, timeout_in_ms):
        with self.added:
            if not self.added.wait_for(lambda: key in self.kept, timeout_in_ms / 1000):
                raise errors.DeadlineExceededError(None, None, key)
            return self.kept[key]


@pytest.mark.parametrize("seeds", [(3, 3, 3), (3, 3, 4)])
def test_a_worker_with_other_settings_ends_all_of_them_with_the_same_line(monkeypatch, seeds):
    store = Store()
    monkeypatch.setattr("advtf.training.cluster._store", lambda: store)

    def agree(index):
        try:
            Cluster(("a:1", "b:2", "c:3"), index).agree("settings", {"eps": 0.1, "seed": seeds[index]})
        except UsageError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(3) as pool:
        (said,) = set(pool.map(agree, range(3)))
    assert said.startswith(
        "all workers must have the same settings. Received: seed=4 in worker 2 and 3 in"
    ) == (len(set(seeds)) > 1)


@pytest.mark.parametrize("index", [0, 1])
def test_only_the_chief_says_that_a_signal_stops_the_training(index, capfd):
    with pytest.raises(TrainingInterrupted), speaking(Cluster(("a:1", "a:2"), index)), stop_on_signals():
        print("a line of Python's")
        signal.raise_signal(signal.SIGINT)
    print("all")
    os.write(1, b"ended\n")
    said = "a line of Python's\n\nSIGINT: saving a checkpoint, then stopping.\n" if index == 0 else ""
    assert sorted(capfd.readouterr().out.split("\n")) == sorted(f"{said}all\nended\n".split("\n"))


def test_other_errors_are_not_taken_for_a_lost_worker():
    with pytest.raises(errors.InvalidArgumentError), Cluster(("a:1", "a:2"), 0).watched():
        raise errors.InvalidArgumentError(None, None, "Incompatible shapes")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(jit="on"), "jit=on works on one device only.*strategy=multi_worker"),
        (dict(attack_mode="training"), "attack_mode=training works on one device.*strategy=multi_worker"),
        (dict(awp=0.005), "awp works on one device.*strategy=multi_worker"),
        (dict(objective="advlc"), "advlc_distance=top compares all examples of a batch"),
    ],
)
def test_what_works_on_one_device_only_is_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig.of({"strategy": "multi_worker", **settings})


def test_the_workers_share_a_folder_and_every_batch(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", described({"worker": ["a:1", "a:2", "a:3"]}))
    config = TrainConfig.of({"strategy": "multi_worker", "batch_size": 32})
    with pytest.raises(UsageError, match="Received: no out_dir"):
        Cluster.of(config, None)
    with pytest.raises(UsageError, match="multiple of the number of workers, 3"):
        Cluster.of(config, "x")
    assert Cluster.of(TrainConfig.of({}), None) is None


def test_a_port_in_use_is_told_before_tensorflow_is_imported(tmp_path, monkeypatch):
    nowhere = tmp_path / "poisoned"
    command.poisoned(nowhere)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as TensorFlow's server does
        taken.bind(("", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("TF_CONFIG", described({"worker": [address, "127.0.0.1:1"]}))
        code, out, error = command.run(
            "advtf.main", tmp_path, "--strategy=multi_worker", "--out_dir=run", first=[nowhere]
        )
    assert (code, out) == (2, "")
    assert error.startswith(f"error: the port of worker 0 must be free. Received: {address} (Address already")
    assert not (tmp_path / "run").exists()
