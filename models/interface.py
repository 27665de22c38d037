"""What a model takes, gives and carries, in names and axes: all that an export or a runtime need know of it."""

from dataclasses import dataclass

import keras
from keras import ops

from ..attention import check_mask_values
from ..toeplitz import override


@dataclass(frozen=True)
class Array:
    """One array that goes into a model or comes out of it.

    Attributes: `name`; `dtype`; `axes`, for each axis its size or, where it is free, its name: "batch", "length".
    Axes of the same name have the same size.
    """

    name: str
    dtype: str
    axes: tuple[str | int, ...]

    def shape(self, **sizes: int | None) -> tuple[int | None, ...]:
        """Return the shape with these sizes of the free axes, None for those without one."""
        return tuple(sizes.get(axis) if isinstance(axis, str) else axis for axis in self.axes)

    def __str__(self):
        """Return the name and the axes, for messages: "token_ids (batch, length)"."""
        return f"{self.name} ({', '.join(map(str, self.axes))})"


@dataclass(frozen=True)
class Interface:
    """What a model takes, gives and carries.

    Attributes: `inputs` and `outputs`; `state`, what a step of decoding takes and gives back beside them, empty for
    models that carry nothing.
    """

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    state: tuple[Array, ...] = ()


class InterfaceModel(keras.Model):
    """A functional model that says what it takes and gives, and refuses an additive mask.

    Beside the inputs that it was built with it takes "segment_ids", integers `(batch, n)`, for several documents in a
    row: each run of equal ids is one, and attention does not leave it. The interface does not name them, and no export
    has them.
    """

    @property
    def interface(self) -> Interface:
        """What the model takes and gives."""
        return functional_interface(self)

    def call(self, inputs, training=None, mask=None):
        """Compute the outputs."""
        inputs, segment_ids = _take_segment_ids(inputs)
        # Before Keras casts a floating mask to the integers of the model's input. Where all inputs are floating, Keras
        # builds a distributed model on the mean of a batch.
        floating = isinstance(inputs, dict) and all(keras.backend.is_float_dtype(x.dtype) for x in inputs.values())
        if isinstance(inputs, dict) and not floating:
            check_mask_values(**{name: x for name, x in inputs.items() if name.endswith("mask")})
        options = {"training": training, "mask": _take_segment_ids(mask)[0]}
        if segment_ids is None:
            return super().call(inputs, **options)
        with override(segment_ids=ops.cast(segment_ids, "int32") if floating else ops.convert_to_tensor(segment_ids)):
            return super().call(inputs, **options)

    def compute_output_spec(self, inputs, training=None, mask=None):
        """Return what symbolic inputs give."""
        return super().compute_output_spec(_take_segment_ids(inputs)[0], training=training, mask=mask)


def interface_of(model: keras.Model) -> Interface:
    """Return a model's `interface`; for a functional model without one, read it from its symbolic tensors.

    Those do not name their free axes. The first is "batch", the second "length", a later one "axis_2" and so on.
    Inputs and outputs have the names of the dict that holds them. Without one an input has its Keras name; one output
    is "output", several are "output_0" and so on.

    Raises:
        ValueError: If `model` is not functional.
    """
    interface = getattr(model, "interface", None)
    return interface if isinstance(interface, Interface) else functional_interface(model)


def functional_interface(model: keras.Model) -> Interface:
    """Read an interface from the symbolic tensors of a functional model, as `interface_of` says."""
    if not (getattr(model, "inputs", None) and getattr(model, "outputs", None)):
        raise ValueError(f"`model` must be a functional Keras model. Received: model={model!r}")
    # `getattr`: a Sequential model that was never called has symbolic tensors, and no structure of them.
    inputs = _named(getattr(model, "input", None), [(tensor.name, tensor) for tensor in model.inputs])
    if len(model.outputs) == 1:
        outputs = [("output", model.outputs[0])]
    else:
        outputs = [(f"output_{index}", tensor) for index, tensor in enumerate(model.outputs)]
    outputs = _named(getattr(model, "output", None), outputs)
    return Interface(tuple(_array(*each) for each in inputs), tuple(_array(*each) for each in outputs))


def _take_segment_ids(inputs):
    """Return a model's inputs without "segment_ids", and those, or None where there are none."""
    if not isinstance(inputs, dict) or "segment_ids" not in inputs:
        return inputs, None
    others = dict(inputs)
    segment_ids = others.pop("segment_ids")
    return others, segment_ids


def _named(structure, otherwise: list[tuple[str, keras.KerasTensor]]) -> list[tuple[str, keras.KerasTensor]]:
    return list(structure.items()) if isinstance(structure, dict) else otherwise


def _array(name: str, tensor: keras.KerasTensor) -> Array:
    names = ("batch", "length", *(f"axis_{index}" for index in range(2, len(tensor.shape))))
    axes = tuple(free if size is None else size for size, free in zip(tensor.shape, names, strict=False))
    return Array(name, keras.backend.standardize_dtype(tensor.dtype), axes)
