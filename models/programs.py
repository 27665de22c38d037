"""Programs: functions over a model, compiled for the backend and kept with the model."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import keras
from keras import ops

# Of one model; the least recently used is dropped.
MOST_PROGRAMS = 16
ATTRIBUTE = "_kept_programs"


def kept_program(
    model, key: Hashable, function: Callable, changing: Sequence = (), jit_compile: bool = False
) -> Callable:
    """Return a function, compiled; the program that the model keeps under this key, if there is one.

    Args:
        model: Keeps the program, outside of Keras' tracking: what saves or copies the model does not see it.
        key: All that the function depends on, besides its arguments and the model's variables.
        function: Of nested dicts and tuples of arrays, in `keras.ops`. It may read the model's variables.
        changing: Other variables, which it may also change.
        jit_compile: Let XLA compile it on TensorFlow too. It takes longer to compile, and a loop runs several times as
            fast: XLA writes a token into a text in place, and starts no kernel for every operation.
    """
    programs = vars(model).get(ATTRIBUTE)
    if programs is None:
        programs = OrderedDict()
        object.__setattr__(model, ATTRIBUTE, programs)
    # A program holds its variables: none of those in a key can have been replaced by another one with its id.
    variables = list(model.variables)
    jit_compile = jit_compile and _takes_xla(model)
    key = (key, jit_compile, *map(id, variables))
    if key not in programs:
        programs[key] = Program(function, variables, list(changing), jit_compile)
    programs.move_to_end(key)
    while len(programs) > MOST_PROGRAMS:
        programs.popitem(last=False)
    return programs[key]


def _takes_xla(model) -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    # Keras never decides for XLA where there are CPUs alone.
    if any(device.device_type != "CPU" for device in tf.config.list_physical_devices()):
        return getattr(model, "jit_compile", True)
    return all(layer.supports_jit for layer in model._flatten_layers())


class Program:
    """A function compiled by `tf.function` or `jax.jit`; on PyTorch one that runs without gradients.

    Args:
        function: Of nested dicts and tuples of arrays, in `keras.ops`.
        variables: All Keras variables that it reads. On JAX they are arguments of the program, not constants.
        changing: Keras variables that it may also change.
        jit_compile: Whether XLA compiles it on TensorFlow.
    """

    def __init__(self, function: Callable, variables: list, changing: list, jit_compile: bool):
        self.variables, self.changing, self.jit_compile = variables, changing, jit_compile
        compile_function = {"tensorflow": self._for_tensorflow, "jax": self._for_jax, "torch": self._for_torch}
        self._call = compile_function[keras.backend.backend()](function)

    def __call__(self, *arguments):
        """Return what the function returns; numbers and numpy arrays become tensors."""
        return self._call(*keras.tree.map_structure(ops.convert_to_tensor, arguments))

    def _for_tensorflow(self, function):
        import tensorflow as tf

        compiled = tf.function(function, autograph=False, jit_compile=self.jit_compile)

        def call(*arguments):
            # Called by itself, each program for another shape would count as one function traced again, with a warning.
            return compiled.get_concrete_function(*arguments)(*arguments)

        return call

    def _for_jax(self, function):
        import jax

        read = [*self.variables, *self.changing]

        @jax.jit
        def program(values, arguments):
            with keras.StatelessScope(state_mapping=list(zip(read, values, strict=True))) as scope:
                results = function(*arguments)
            return results, [scope.get_current_value(variable) for variable in self.changing]

        def call(*arguments):
            results, changed = program([variable.value for variable in read], arguments)
            for variable, value in zip(self.changing, changed, strict=True):
                variable.assign(value)
            return results

        return call

    def _for_torch(self, function):
        import torch

        return torch.no_grad()(function)
