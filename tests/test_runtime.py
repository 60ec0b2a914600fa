"""Starting TensorFlow: quietly, with the chosen strategy and precision or a reason why not; progress bars."""

import os
import subprocess
import sys

import pytest
import tensorflow as tf

from advtf import runtime
from advtf.errors import UsageError

OPTION = "auto_mixed_precision_onednn_bfloat16"
GPUS = tf.config.list_physical_devices("GPU")


def rewriting():
    return bool(tf.config.optimizer.get_experimental_options().get(OPTION, False))


def test_import_is_quiet_and_keras_runs_on_tensorflow():
    code = (
        "from advtf.runtime import start; r = start(); import keras; "
        "print(keras.backend.backend(), r.device.split()[-1], r.model_policy, sep='|')"
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == f"tensorflow|{'XLA' if GPUS else 'graph'}|float32"


def test_the_messages_of_a_failed_import_are_shown(capfd, monkeypatch):
    def broken():
        os.write(2, b"the driver is too old\n")
        raise RuntimeError

    monkeypatch.setattr(tf.config, "list_physical_devices", broken)
    with pytest.raises(RuntimeError):
        runtime.import_tensorflow()
    assert "the driver is too old" in capfd.readouterr().err
    os.write(2, b"restored\n")
    assert capfd.readouterr().err == "restored\n"


@pytest.mark.skipif(len(GPUS) > 1, reason="needs fewer than two GPUs")
def test_mirroring_one_device_is_refused():
    with pytest.raises(UsageError, match=r"at least 2 devices\. Received: 1 visible\. Use --strategy=none"):
        runtime.start(strategy="mirrored")


@pytest.mark.skipif(bool(GPUS), reason="describes a machine without GPU")
@pytest.mark.parametrize(
    ("settings", "device", "rewrite", "jit_compile"),
    [
        ({}, "graph", False, "auto"),
        ({"precision": "bfloat16"}, "graph", True, "auto"),
        ({"jit": "on"}, "XLA", False, True),
        ({"jit": "off", "precision": "bfloat16"}, "graph", True, False),
    ],
)
def test_choices_on_a_cpu(settings, device, rewrite, jit_compile):
    chosen = runtime.start(**settings)
    assert chosen.device == f"CPU ({os.cpu_count()} cores), {device}"
    assert (chosen.model_policy, chosen.rewrite_bfloat16) == ("float32", rewrite)
    assert chosen.jit_compile == jit_compile and type(chosen.jit_compile) is type(jit_compile)
    assert chosen.strategy.num_replicas_in_sync == 1
    assert not rewriting()  # only announced: the trainer switches it for the training graphs


def test_bfloat16_rewrite_nests_and_is_undone_after_an_error():
    assert not rewriting()
    with pytest.raises(KeyError), runtime.bfloat16_rewrite(True):
        assert rewriting()
        with runtime.bfloat16_rewrite(False):
            assert not rewriting()
        assert rewriting()
        raise KeyError
    assert not rewriting()


@pytest.mark.parametrize(
    ("terminal", "shown", "visible"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_a_progress_bar_shows_on_a_terminal_only(capsys, monkeypatch, terminal, shown, visible):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert list(runtime.progress(range(3), desc="images", shown=shown)) == [0, 1, 2]
    out, error = capsys.readouterr()
    assert out == "" and ("images" in error) == visible
