"""Our training under TensorFlow's own TPUStrategy: traced for four replicas, and with one replica run, as far as a CPU can.

The same program with the kernels of XLA and N replicas is in tests/parity and tests/tpu; only a TPU runs both at once.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from components.common.errors import DeviceError
from components.train import step
from components.train.config import TrainConfig
from components.train.data.resident import Resident
from components.train.devices import host_call, strategy, tpu_runtime
from components.train.devices.host_code import graph_nodes, host_operations
from components.train.saving import variables
from tests.parity.training import IMAGES, LABELS, config_for, shape_for
from tests.support.tpu_strategy import Resolver, one_replica_runs, tpu_strategy

ROUNDS = 4


def tpu_config(**changes: object) -> TrainConfig:
    return config_for(1, n_critic=2, **changes).model_copy(update={"devices": "tpu", "precision": "float32"})


def source_for(config: TrainConfig) -> Resident:
    return Resident(IMAGES, LABELS, seed=config.seed, n_critic=config.n_critic, batch_size=config.global_batch_size)


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adam", "conditional": True, "lipschitz": "clip"}], ids=str)
def test_one_replica_of_tpu_strategy_trains_as_the_default_strategy_does(changes: dict[str, object]) -> None:
    """Every line between make_call and the metrics runs with TPUStrategy, and the check of the weights too."""
    config, results = tpu_config(**changes), []
    for each in (tf.distribute.get_strategy(), tpu_strategy(1)):
        source, state = source_for(config), step.make_state(shape_for(config), config, each)
        with one_replica_runs():
            metrics = host_call.make_call(state, config, each, source)(source.take(0, ROUNDS), tf.constant(0)).numpy()
            results.append(variables.state_arrays(state) | {"metrics": metrics})
            broken = host_call.make_weights_check(state, each)
            assert broken() == []
            kernel = state.critic.variables[0]
            kernel.assign(kernel * np.nan)
            assert broken() == ["critic/000/kernel"]
    for name, array in results[0].items():
        np.testing.assert_allclose(results[1][name], array, rtol=1e-4, atol=1e-5, err_msg=name)
    assert results[0]["metrics"].shape == (ROUNDS, 6)


def test_four_replicas_are_traced_with_one_sum_for_each_gradient() -> None:
    config, replicas = tpu_config(optimizer="adam"), 4
    each = tpu_strategy(replicas)
    source, state = source_for(config), step.make_state(shape_for(config), config, each)
    on_device = host_call.load_on_device(source, each)
    graph = (
        host_call.make_device_call(state, config, each, on_device)
        .get_concrete_function(source.take(0, ROUNDS), tf.constant(0))
        .graph
    )
    operations = Counter(node.op for node in graph_nodes(graph))
    gradients = len(state.critic.trainable_variables) + len(state.generator.trainable_variables)
    assert operations["CrossReplicaSum"] == gradients, "the critic steps are a loop, whose body is in the graph once"
    assert operations["While"] == 2, "one loop of rounds, and in it one of critic steps"
    assert operations["TPUReplicatedOutput"] == 2, "PART_METRICS and WHOLE_METRICS"
    assert operations["AllToAll"] == 2, "Keras sends its counter of updates from the first replica to the others"
    assert host_operations(graph) == []
    names = [node for node in graph_nodes(graph) if node.op == "TPUReplicateMetadata"]
    assert [node.attr["num_replicas"].i for node in names] == [replicas]


def test_variables_have_a_copy_on_each_replica_and_all_copies_are_assigned() -> None:
    config, replicas = tpu_config(), 4
    each = tpu_strategy(replicas)
    state = step.make_state(shape_for(config), config, each)
    one = step.make_state(shape_for(config), config, tf.distribute.get_strategy())
    expected = variables.state_arrays(one)
    for round_number in (0, 1):
        for name, variable in variables.named_variables(state):
            assert len(variable.value.values) == replicas
            for index, copy in enumerate(variable.value.values):
                assert copy.device.endswith(f"CPU:{index}")
                np.testing.assert_array_equal(copy.numpy(), expected[name], err_msg=f"{name} {round_number}")
        expected = {name: array + 1 for name, array in expected.items()}  # as a checkpoint with other values
        variables.load_arrays(state, expected)


def test_metrics_are_sums_of_parts_and_the_equal_ones_as_they_are() -> None:
    each = tpu_strategy(4)
    per_replica = each.experimental_distribute_values_from_function
    parts = per_replica(lambda context: tf.fill([2, 4], float(context.replica_id_in_sync_group)))
    whole = per_replica(lambda _: tf.fill([2, 2], 5.0))
    np.testing.assert_array_equal(host_call._reduced(each, parts, whole), [[6.0] * 4 + [5.0] * 2] * 2)


@pytest.mark.parametrize("devices", ["tpu", "tpu:grpc://10.0.0.2:8470"])
def test_the_strategy_is_made_from_the_resolver(devices: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow's functions that talk to the TPU are replaced; the rest of make_strategy runs."""
    calls = []
    monkeypatch.setattr(tpu_runtime, "confirm", lambda devices: calls.append(devices))
    monkeypatch.setattr(strategy, "_check_workers", lambda *_: calls.append("workers"))
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", lambda tpu: calls.append(tpu) or Resolver(3))
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", lambda _: calls.append("connect"))
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", lambda _: calls.append("initialize"))
    made = strategy.make_strategy(TrainConfig(devices=devices, global_batch_size=66))
    assert isinstance(made, tf.distribute.TPUStrategy)
    assert made.num_replicas_in_sync == 3
    address = devices.partition(":")[2]
    assert calls == [devices, *(["local"] if not address else [address, "workers", "connect"]), "initialize"]
    with pytest.raises(DeviceError, match="global_batch_size = 64 does not divide by 3 replicas; use 63 or 66"):
        strategy.make_strategy(TrainConfig(devices=devices, global_batch_size=64))


def test_float32_is_multiplied_in_float32() -> None:
    """By default a TPU rounds the factors of float32 products to bfloat16, as the precision DEFAULT of the program says."""
    config = config_for(1)
    step.make_state(shape_for(config), config, tf.distribute.get_strategy())
    images, kernel = tf.ones([1, 4, 4, 1]), tf.ones([3, 3, 1, 1])
    convolve = tf.function(lambda: tf.nn.conv2d(images, kernel, 1, "SAME"), jit_compile=True)
    text = convolve.experimental_get_compiler_ir()(stage="stablehlo")
    assert "precision HIGHEST" in text
    assert "precision DEFAULT" not in text
