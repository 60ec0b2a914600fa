"""Starting TensorFlow: quietly, with the chosen strategy and precision or a reason why not; progress bars."""

import os
import subprocess
import sys

import pytest
import tensorflow as tf
from helpers.trainer import batch, compiled
from tensorflow.python.eager import context
from tensorflow.python.framework.config import disable_op_determinism

import advtf
from advtf import runtime
from advtf.data.sets import Split
from advtf.errors import UsageError, quantity

GPUS = tf.config.list_physical_devices("GPU")
SWITCH = tf.config.experimental


def test_import_is_quiet_and_keras_runs_on_tensorflow():
    code = (
        "import os; os.sched_getaffinity = lambda _: {0, 1}; "
        "from advtf.runtime import start; r = start(); import keras; import tensorflow as tf; "
        "spins = not tf.__internal__.eager_context.get_config().experimental.disable_thread_spinning; "
        "print(keras.backend.backend(), r.device.split()[-1], r.model_policy, spins, sep='|')"
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == f"tensorflow|{'XLA' if GPUS else 'graph'}|float32|False"


@pytest.mark.parametrize(("cores", "sleeps"), [(1, True), (2, True), (3, False)])
def test_idle_threads_search_for_work_where_there_are_cores_to_spare(cores, sleeps, monkeypatch):
    monkeypatch.setattr(runtime, "cores", lambda: cores)
    monkeypatch.setattr(context.context(), "_config", None)
    runtime.import_tensorflow()
    assert context.get_config().experimental.disable_thread_spinning == sleeps


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
    ("settings", "device", "policy", "jit_compile"),
    [
        ({}, "graph", "float32", "auto"),
        ({"precision": "bfloat16"}, "graph", "mixed_bfloat16", "auto"),
        ({"precision": "tf32"}, "graph, tf32 has no effect here", "float32", "auto"),
        ({"jit": "on"}, "XLA", "float32", True),
        ({"jit": "off", "precision": "bfloat16"}, "graph", "mixed_bfloat16", False),
    ],
)
def test_choices_on_a_cpu(settings, device, policy, jit_compile, monkeypatch):
    monkeypatch.setattr(runtime, "_multiplies_bfloat16", lambda: True)
    chosen = runtime.start(**settings)
    assert chosen.device == f"CPU ({quantity(runtime.cores(), 'core')}), {device}"
    assert chosen.model_policy == policy
    assert chosen.jit_compile == jit_compile and type(chosen.jit_compile) is type(jit_compile)
    assert chosen.strategy.num_replicas_in_sync == 1
    assert not chosen.tf32 and not SWITCH.tensor_float_32_execution_enabled()


def test_cores_are_those_of_this_process(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 3, 5}, raising=False)
    found = []
    for limit in ("", "2", "8", "0", "2,1"):
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
        found.append(runtime.cores())
    assert found == [3, 2, 3, 3, 3]


@pytest.mark.skipif(bool(GPUS), reason="describes a machine without GPU")
@pytest.mark.parametrize(
    ("described", "told"),
    [
        ("flags\t\t: fpu avx512_bf16 sse\n", False),
        ("flags\t\t: fpu amx_bf16\n", False),
        ("flags\t\t: fpu avx2 avx512f\n", True),
        ("Features\t: fp asimd bf16\n", False),
        (None, False),
    ],
)
def test_a_processor_without_bfloat16_is_told(described, told, monkeypatch):
    def read_text(path):
        if described is None:
            raise FileNotFoundError
        return described

    monkeypatch.setattr(runtime.Path, "read_text", read_text)
    assert ("float32 is faster" in runtime.start(precision="bfloat16").device) == told
    assert "float32 is faster" not in runtime.start().device


@pytest.fixture
def tf32():
    before = SWITCH.tensor_float_32_execution_enabled()
    SWITCH.enable_tensor_float_32_execution(True)
    yield SWITCH.tensor_float_32_execution_enabled
    SWITCH.enable_tensor_float_32_execution(before)


def test_true_float32_nests_and_is_undone_after_an_error(tf32):
    with pytest.raises(KeyError), runtime.true_float32(), runtime.true_float32():
        assert not tf32()
        raise KeyError
    assert tf32()
    SWITCH.enable_tensor_float_32_execution(False)
    with runtime.true_float32():
        assert not tf32()
    assert not tf32()


def test_a_decorated_function_is_in_true_float32_at_every_call(tf32):
    @runtime.true_float32()
    def measured(argument):
        return argument, tf32()

    assert [measured(1), measured(2)] == [(1, False), (2, False)]
    assert tf32()


def test_training_switches_tf32_and_measuring_within_it_comes_first(tf32):
    def arithmetic(enabled):
        return runtime.Runtime("", None, "float32", "auto", tf32=enabled).training()

    with arithmetic(False):
        assert not tf32()
        with pytest.raises(KeyError), arithmetic(True):
            with runtime.true_float32():
                assert not tf32()
            assert tf32()
            raise KeyError
        assert not tf32()
    assert tf32()
    with runtime.true_float32(), arithmetic(True):
        assert not tf32()


def test_threads_that_measure_at_once_and_one_that_trains(tf32):
    """The first to finish must not switch TF32 on for the other."""
    first, second = runtime.true_float32(), runtime.true_float32()
    first.__enter__()
    second.__enter__()
    training = runtime.Runtime("", None, "float32", "auto", tf32=False).training()
    training.__enter__()
    first.__exit__(None, None, None)
    assert not tf32()
    second.__exit__(None, None, None)
    assert not tf32()  # what the training wants
    training.__exit__(None, None, None)
    assert tf32()


def stand_in(monkeypatch, capability):
    """Has TensorFlow tell of a GPU that is not there."""
    details = {"device_name": "one", "compute_capability": capability}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["GPU:0"])
    monkeypatch.setattr(SWITCH, "get_device_details", lambda gpu: details)
    monkeypatch.setattr(SWITCH, "set_memory_growth", lambda gpu, enabled: None)


@pytest.mark.parametrize(
    ("capability", "settings", "device", "enabled"),
    [
        ((8, 0), {"precision": "tf32"}, "1 of 1 GPU (one), XLA", True),
        ((8, 0), {"precision": "float32"}, "1 of 1 GPU (one), XLA", False),
        ((7, 5), {"precision": "tf32"}, "1 of 1 GPU (one), XLA, tf32 has no effect here", False),
        ((8, 0), {"precision": "tf32", "jit": "off"}, "jit=off", None),
    ],
)
def test_choices_on_a_gpu(monkeypatch, capability, settings, device, enabled):
    """What is chosen for it, and what is refused."""
    stand_in(monkeypatch, capability)
    if enabled is None:
        with pytest.raises(UsageError, match=f"tf32 on a GPU needs XLA.*{device}.*Use precision=float32"):
            runtime.start(**settings)
        return
    chosen = runtime.start(**settings)
    assert (chosen.device, chosen.tf32) == (device, enabled)
    assert not SWITCH.tensor_float_32_execution_enabled()
    with chosen.training():
        assert SWITCH.tensor_float_32_execution_enabled() == enabled


@pytest.fixture
def deterministic_operations():
    SWITCH.enable_op_determinism()
    yield
    disable_op_determinism()


def test_deterministic_operations_are_without_xla(deterministic_operations):
    assert runtime.is_deterministic() and not runtime.compiles("auto")
    with pytest.raises(UsageError, match=r"jit must be auto or off .* Received: jit=on"):
        runtime.compiles("on")
    runtime.require_deterministic(True)


@pytest.mark.slow
def test_everything_runs_by_deterministic_operations(deterministic_operations):
    """TensorFlow raises where it has none, and where a random number has no seed."""

    def trained():
        x, y = batch(16, shape=(8, 8, 1))
        model = advtf.build_model("lenet", (8, 8, 1), 3, width=1)
        trainer = compiled(model, advtf.pgd("linf", 1))
        trainer.fit(advtf.training_batches(Split(x, y), 8, seed=0), steps_per_epoch=2, verbose=0)
        found = advtf.evaluate(model, x, y, ["pgd", "square"], 0.1, queries=10)
        return [*(weight.tobytes() for weight in model.get_weights()), found.adversarial.tobytes()]

    assert trained() == trained()


def test_determinism_is_switched_on_for_a_gpu_only(monkeypatch):
    switched = []
    monkeypatch.setattr(SWITCH, "enable_op_determinism", lambda: switched.append(True))
    device = runtime.start(deterministic=True).device
    assert device.endswith(", graph, deterministic") and not switched
    runtime.require_deterministic(True)
    stand_in(monkeypatch, (8, 0))
    assert runtime.start(deterministic=True, jit="off").device.endswith(", graph, deterministic") and switched
    with pytest.raises(UsageError, match="enable_op_determinism"):
        runtime.require_deterministic(True)


@pytest.mark.parametrize(
    ("terminal", "shown", "visible"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_a_progress_bar_shows_on_a_terminal_only(capsys, monkeypatch, terminal, shown, visible):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert list(runtime.progress(range(3), desc="images", shown=shown)) == [0, 1, 2]
    out, error = capsys.readouterr()
    assert out == "" and ("images" in error) == visible
