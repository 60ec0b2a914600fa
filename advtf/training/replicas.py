"""What a step has to do when its batch is split over replicas."""

import tensorflow as tf


def never_empty(batch: tf.Tensor) -> tf.Tensor:
    """Adds an example of zeros where a replica got nothing of a short last batch: convolutions need one."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return batch
    missing = tf.maximum(1 - tf.shape(batch)[0], 0)
    return tf.pad(batch, [[0, missing]] + [[0, 0]] * (batch.shape.rank - 1))


def summed_over_replicas(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the sums over all replicas; the tensors themselves where there is one."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return tensors
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors)
