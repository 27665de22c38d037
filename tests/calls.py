"""Calls compiled whole on JAX: operation by operation, a call takes seconds to compile."""

import functools

import keras

# What compiles soonest on few cores: emitters without MLIR, and one piece of code a program.
XLA_FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

# The environment of a process on JAX that compiles as the tests do, see conftest.py.
QUICK_TO_COMPILE = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": XLA_FLAGS}

# The same of a process on TensorFlow, where XLA compiles.
QUICK_XLA = {
    "XLA_FLAGS": f"{XLA_FLAGS} --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
}


def shared_programs(folder):
    """The environment of processes on JAX that compile the same programs: the first keeps them in a folder for all."""
    return {**QUICK_TO_COMPILE, **kept_programs(folder)}


def kept_programs(folder):
    """The environment of processes on JAX that keep every program in a folder, however soon it is compiled."""
    always = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    return {"JAX_COMPILATION_CACHE_DIR": str(folder), **always}


# XLA's defaults, which `XLA_FLAGS` replaces.
AS_A_USER_COMPILES = {"xla_cpu_use_fusion_emitters": True, "xla_cpu_parallel_codegen_split_count": 32}


def jit(function):
    """jax.jit; it compiles as for a user where the fixture `optimized` asks for it."""
    import jax

    quick = jax.config.read("jax_disable_most_optimizations")
    return jax.jit(function, compiler_options=None if quick else AS_A_USER_COMPILES)


@functools.lru_cache(maxsize=2)
def compile_step(function):
    """`step` of a layer or a model, compiled once a size: operation by operation, many steps take minutes."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False)
    return function if keras.backend.backend() == "torch" else jit(function)


def call(layer, *inputs, **options):
    """layer(*inputs, **options), without training; arrays may be anywhere, nested too."""
    if keras.backend.backend() != "jax":
        return layer(*inputs, **options)
    arrays = {name: x for name, x in options.items() if hasattr(x, "shape")}
    fixed = tuple((name, x) for name, x in options.items() if name not in arrays)
    if not layer.built:
        layer(*keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape), inputs), **dict(fixed))
    weights = ([w.value for w in layer.trainable_variables], [w.value for w in layer.non_trainable_variables])
    return _program(layer, fixed)(*weights, inputs, arrays)


@functools.lru_cache(maxsize=4)
def _program(layer, fixed):
    def program(trainable, non_trainable, inputs, arrays):
        return layer.stateless_call(trainable, non_trainable, *inputs, **dict(fixed), **arrays)[0]

    return jit(program)
