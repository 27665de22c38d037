"""Logs for TensorBoard of a training that resumes."""

import keras
import numpy as np
import pytest
from blobs import Interrupt, Watch, fit, make_model

from krpe_tf.training import Checkpoints


def test_logs_that_cannot_be_written_are_an_error_of_the_disk(tmp_path):
    import tensorflow as tf

    class Full:
        def flush(self):
            raise tf.errors.ResourceExhaustedError(None, None, "events.out: no space left")

    tensorboard = keras.callbacks.TensorBoard(str(tmp_path / "logs"), write_graph=False)
    watch = Watch()
    watch.on_train_begin = lambda logs=None: tensorboard._writers.update(full=Full())
    with pytest.raises(OSError, match=r"logs cannot be written \(events.out: no space left\); the earlier checkpoints"):
        fit(make_model(), Checkpoints(tmp_path / "checkpoints"), watch, callbacks=[tensorboard])


def test_tensorboard_continues_without_a_gap(tmp_path):
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def fit_with_logs(watch=None):
        tensorboard = keras.callbacks.TensorBoard(str(tmp_path / "logs"), write_graph=False)
        return fit(make_model(), checkpoints, watch, callbacks=[tensorboard])

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(Interrupt):
        fit_with_logs(Watch(8))
    # What a kill at step 8 leaves is what reached the disk by then.
    history = fit_with_logs()
    for part, names in (("train", ["loss", "accuracy"]), ("validation", ["loss"])):
        events = EventAccumulator(str(tmp_path / "logs" / part)).Reload()
        for name in names:
            points = {e.step: tf.make_ndarray(e.tensor_proto) for e in events.Tensors(f"epoch_{name}")}
            expected = history[name if part == "train" else f"val_{name}"]
            np.testing.assert_allclose([points[step] for step in sorted(points)], expected, rtol=1e-6)
            assert sorted(points) == ([0, 1, 2, 3] if part == "train" else [1, 3])
