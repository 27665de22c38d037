"""What one encoder takes from another: its arguments and its weights."""

import logging

from keras import ops

from ..position_bias import remove_peaks

logger = logging.getLogger(__name__)


def student_arguments(teacher, changes: dict) -> dict:
    """Return the arguments of an `Encoder` that is like another one but for some of them."""
    config = teacher.get_config()
    given = {name: value for name, value in config.items() if name not in ("name", "trainable")}
    bias = teacher.position_bias
    if bias is not None and not isinstance(bias, str):  # In a config a bias that layers share is marked as theirs.
        given["position_bias"] = type(bias).from_config(bias.get_config())
    return {**given, **changes}


def start_from_slopes(encoder) -> None:
    """Take the peaks out of the biases that an encoder made by name; one that the user gave stays as it is."""
    if isinstance(encoder.position_bias, str):
        remove_peaks(encoder.position_biases)


def take_weights(student, teacher) -> None:
    """Give an encoder the weights of another one where paths and shapes agree; log which it keeps.

    Where the teacher alone has absolute positions, their mean goes into the token embeddings.
    """
    found, kept = {weight.path: weight for weight in teacher.weights}, []
    for weight in student.weights:
        source = found.pop(weight.path, None)
        if source is None or source.shape != weight.shape:
            kept.append(weight.path)
        elif student.feature_map == teacher.feature_map or not weight.path.endswith("/projection"):
            weight.assign(ops.copy(source))  # Random features are drawn for one map. JAX frees what it trains on.
    if teacher.position_bias is None:
        start_from_slopes(student)
    if student.absolute_positions is None and teacher.absolute_positions is not None:
        mean = ops.mean(teacher.get_layer("absolute_positions").table, axis=0)
        student.token_embedding.embeddings.assign_add(ops.cast(mean, student.token_embedding.embeddings.dtype))
    for what, paths in (
        ("weights that the teacher lacks, and start anew", kept),
        ("weights of the teacher not taken", found),
    ):
        if paths:
            logger.info("%s: %s", what, ", ".join(paths))
