"""Sums over the replicas of a `tf.distribute` strategy."""

import keras


def _replica_context():
    """Return TensorFlow's replica context, or None for a single replica or outside of replica code."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def sum_over_replicas(tensors):
    """Return the sum of a tensor, or of each of a list, over all replicas; with one replica the tensor itself."""
    context = _replica_context()
    return tensors if context is None else context.all_reduce("SUM", tensors)
