"""How weights lie on a mesh of devices, for `keras.distribution.ModelParallel`."""

import keras


def make_layout_map(
    device_mesh: keras.distribution.DeviceMesh, sharded: dict[str, tuple[str | None, ...]]
) -> keras.distribution.LayoutMap:
    """Make a layout map; weights that it does not name are whole on each device.

    Args:
        device_mesh: Has an axis "model".
        sharded: For each regular expression of weight paths the mesh's axis, or None, along each axis of the weight.

    Raises:
        ValueError: For a mesh without an axis "model".
    """
    if "model" not in device_mesh.axis_names:
        axes = tuple(device_mesh.axis_names)
        raise ValueError(f'`device_mesh` must have an axis "model". Received: device_mesh with axes {axes}')
    layout = keras.distribution.LayoutMap(device_mesh)
    for path, axes in sharded.items():
        layout[path] = axes
    return layout


def sharded_weights(block: str, embedding: str) -> dict[str, tuple[str | None, ...]]:
    """Return which weights of transformer blocks are sharded over the devices of a model, for `make_layout_map`.

    Heads and the inside of the feed-forward block are, as in Megatron-LM (arXiv 1909.08053), and embeddings by their
    width; what is small, or meets all heads, is whole everywhere.

    Args:
        block: A regular expression of what begins the names of a block's layers: "layer_3".
        embedding: One of the names of embeddings.
    """
    attention = rf"(.*/)?{block}_(cross_)?attention"
    return {
        rf"{attention}/(query|key|value|gate)/kernel": (None, "model", None),
        rf"{attention}/(query|key|value|gate)/bias": ("model", None),
        rf"{attention}/attention_output/kernel": ("model", None, None),
        rf"(.*/)?{block}_feed_forward_(in|gate)/kernel": (None, "model"),
        rf"(.*/)?{block}_feed_forward_(in|gate)/bias": ("model",),
        rf"(.*/)?{block}_feed_forward_out/kernel": ("model", None),
        rf"(.*/)?{embedding}/embeddings": (None, "model"),
    }
