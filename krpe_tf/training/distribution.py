"""Training on several devices and hosts, with the engines that Keras 3 has.

TensorFlow: `tf.distribute.MirroredStrategy`, the devices of one host. JAX: `keras.distribution`, the devices of any
number of hosts, one process each. docs/distribution.md says what was tested.
"""

import contextlib
import re
from collections.abc import Callable

import keras

from ..checks import check_at_least


def encoder_layout(mesh: "keras.distribution.DeviceMesh") -> "keras.distribution.LayoutMap":
    """Return the layout map of an encoder and its heads: `MaskedLM.get_layout_map` under its name of 0.1.

    Args:
        mesh: Has an axis "model", whose size divides the encoder's num_heads, hidden_dim and intermediate_dim.

    Raises:
        ValueError: For a mesh without that axis, or where krpe_tf.models, which knows its weights, is not imported.
    """
    masked_lm = keras.saving.get_registered_object("krpe_tf>MaskedLM")
    if masked_lm is None:
        raise ValueError("krpe_tf.models must be imported first, or `layout_map` given. Received: neither")
    return masked_lm.get_layout_map(mesh)


class Distribution:
    """Devices and processes of a training run, made by `make_distribution`.

        distribution = make_distribution("data")
        with distribution.scope():                      # everything that makes weights, and fit
            model = MaskedLM(Encoder.from_preset("small"), at_positions=True)
            compile_masked_lm(model, make_optimizer(1e-3, steps=1000))
            model.fit(dataset)                          # of a process: its rows of every global batch

    Every process must draw the same weights: give `Encoder` a seed, and call `keras.utils.set_random_seed` first.

    Attributes:
        name: "none", "data" or "model=K".
        process_index, process_count: Which process of how many this is.
        num_devices: Devices of all processes.
        num_replicas: Shards of a global batch: `num_devices`, or a K-th of it for "model=K".
    """

    def __init__(self, name, engine, process_index, process_count, num_devices, num_replicas):
        self.name = name
        self.process_index = process_index
        self.process_count = process_count
        self.num_devices = num_devices
        self.num_replicas = num_replicas
        self._engine = engine

    @property
    def is_chief(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.process_index == 0

    def scope(self) -> contextlib.AbstractContextManager:
        """Return the context in which to make a model, its biases, optimizer and metrics, and to fit it."""
        return contextlib.nullcontext() if self._engine is None else self._engine.scope()

    def wait(self) -> None:
        """Wait until every process has called it; each must call it as often as the others."""
        if self.process_count > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("krpe_tf")

    @contextlib.contextmanager
    def chief_first(self):
        """Run the body in the chief first, then in the others, which find what it wrote."""
        if not self.is_chief:
            self.wait()
        yield
        if self.is_chief:
            self.wait()

    def check_batch_size(self, **batch_sizes: int) -> None:
        """Raise a ValueError unless every named size of a global batch is a multiple of `num_replicas`."""
        check_at_least(1, **batch_sizes)
        for name, size in batch_sizes.items():
            if size % self.num_replicas:
                raise ValueError(
                    f"`{name}` must be a multiple of the {self.num_replicas} replicas of distribution={self.name!r}. "
                    f"Received: {name}={size}"
                )

    def check_encoder(self, num_heads: int, hidden_dim: int, intermediate_dim: int) -> None:
        """Raise a ValueError unless the devices of "model=K" can share an encoder of these sizes."""
        parts = self.num_devices // self.num_replicas
        sizes = {"num_heads": num_heads, "hidden_dim": hidden_dim, "intermediate_dim": intermediate_dim}
        check_at_least(1, **sizes)
        for name, size in sizes.items():
            if size % parts:
                raise ValueError(
                    f"`{name}` must be a multiple of {parts} for distribution={self.name!r}. Received: {name}={size}"
                )


ONE_DEVICE = Distribution("none", None, 0, 1, 1, 1)


def make_distribution(
    distribution: str = "none",
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_index: int | None = None,
    layout_map: Callable[[keras.distribution.DeviceMesh], keras.distribution.LayoutMap] | None = None,
) -> Distribution:
    """Make the distribution of a run, over all devices of this host or of several.

    With several processes, call it before anything computes on JAX; it waits until all processes have called it.

    Args:
        distribution: "none": one device. "data": each device takes its rows of every batch; all GPUs, or all logical
            CPU devices if there is none (on JAX also TPU chips). "model=K": K devices share the weights of one model,
            and the batch is sharded over the groups of K; JAX only.
        coordinator: "HOST:PORT" of process 0, for several processes, with the two arguments below; JAX only.
        num_processes: How many processes there are.
        process_index: Which one this is, from 0.
        layout_map: For "model=K": how a model's weights lie on a mesh with an axis "model", such as
            `MaskedLM.get_layout_map`; `encoder_layout` if None.

    Raises:
        ValueError: For another `distribution`, arguments that do not fit each other, a K that does not divide the
            devices, or what this backend cannot do.
    """
    backend = keras.backend.backend()
    match = re.fullmatch(r"none|data|model=([1-9]\d*)", distribution) if isinstance(distribution, str) else None
    if match is None:
        raise ValueError(f'`distribution` must be "none", "data" or "model=K". Received: distribution={distribution!r}')
    parts = int(match[1] or 1)
    if distribution != "none" and backend not in ("tensorflow", "jax"):
        raise ValueError(
            f"distribution={distribution!r} needs KERAS_BACKEND=tensorflow or jax. Received: KERAS_BACKEND={backend}"
        )
    if match[1] and backend != "jax":
        raise ValueError(
            f'only JAX shards a model over devices; set KERAS_BACKEND=jax, or use distribution="data". '
            f"Received: distribution={distribution!r} with KERAS_BACKEND={backend}"
        )
    _check_processes(distribution, backend, coordinator, num_processes, process_index)
    if distribution == "none":
        return ONE_DEVICE
    if backend == "tensorflow":
        return _mirrored(distribution)
    if coordinator is not None and num_processes > 1:
        keras.distribution.initialize(coordinator, num_processes, process_index)
    return _jax(distribution, parts, layout_map or encoder_layout)


def _check_processes(distribution, backend, coordinator, num_processes, process_index):
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_index": process_index}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return
    if missing:
        raise ValueError(
            "several processes need `coordinator`, `num_processes` and `process_index` together (--coordinator, "
            "--processes, --process). Received: no "
            f"{', no '.join(missing)}"
        )
    if backend != "jax":
        raise ValueError(
            "several processes run on JAX only, Keras 3 does not support MultiWorkerMirroredStrategy; set "
            f"KERAS_BACKEND=jax. Received: coordinator={coordinator!r} with KERAS_BACKEND={backend}"
        )
    if not isinstance(coordinator, str) or not re.fullmatch(r"\S+:\d+", coordinator):
        raise ValueError(f"`coordinator` must be HOST:PORT. Received: coordinator={coordinator!r}")
    check_at_least(1, num_processes=num_processes)
    check_at_least(0, process_index=process_index)
    if process_index >= num_processes:
        raise ValueError(
            f"`process_index` must be below `num_processes`, {num_processes}. Received: process_index={process_index}"
        )
    if num_processes > 1 and distribution != "data":
        raise ValueError(
            f'several processes need distribution="data". Received: distribution={distribution!r} with '
            f"num_processes={num_processes}"
        )


def _mirrored(distribution):
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    return Distribution(distribution, strategy, 0, 1, len(devices), len(devices))


def _jax(distribution, parts, layout_map):
    import jax

    devices = keras.distribution.list_devices()
    if len(devices) % parts:
        raise ValueError(
            f"K of `distribution` must divide the {len(devices)} devices; "
            "XLA_FLAGS=--xla_force_host_platform_device_count=K makes K devices of a CPU. "
            f"Received: distribution={distribution!r}"
        )
    replicas = len(devices) // parts
    # Each process brings its own rows, so Keras must not shard them again.
    if distribution == "data":
        engine = keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
    else:
        mesh = keras.distribution.DeviceMesh((replicas, parts), ["batch", "model"], devices)
        engine = keras.distribution.ModelParallel(
            layout_map=layout_map(mesh), batch_dim_name="batch", auto_shard_dataset=False
        )
    return Distribution(distribution, engine, jax.process_index(), jax.process_count(), len(devices), replicas)
