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
