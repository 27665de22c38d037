"""Runs an exported file in a process of its own: `python _runner.py KIND PATH OPS REQUEST ANSWER`.

A script, never imported: it must see nothing of krpe_tf, Keras or the exporting process. KIND is "litert" or
"saved_model", OPS "text" where tensorflow-text's ops are needed and "builtin" elsewhere, REQUEST a JSON list of
[signature, {input: values}], ANSWER the .npz to write, one array "CALL/OUTPUT" for each output and "CALL/milliseconds".
It prints the name of every signature before it runs it: where it crashes, the last one is to blame.
"""

import json
import os
import runpy
import sys
import time

import numpy as np


def main(kind, path, ops, request, answer):
    """Run every call of the request and write the answer."""
    with open(request, encoding="utf-8") as file:
        calls = json.load(file)
    runner = {"litert": litert, "saved_model": saved_model}[kind](path, ops == "text")
    results = {}
    for index, (signature, inputs) in enumerate(calls):
        print(signature, flush=True)
        inputs = {name: to_array(name, value) for name, value in inputs.items()}
        start = time.perf_counter()
        outputs = {name: np.asarray(value) for name, value in runner(signature, inputs).items()}
        outputs["milliseconds"] = 1000 * (time.perf_counter() - start)
        for name, value in outputs.items():
            results[f"{index}/{name}"] = value
    np.savez(answer, **results)


def to_array(name, value):
    """Return an input's values as LiteRT and TensorFlow take them: UTF-8 bytes or int32."""
    if name == "text":
        return np.array([text.encode("utf-8") for text in value], dtype=object)
    return np.array(value, dtype=np.int32)


def litert(path, with_text):
    """Load a .tflite file's signatures, on the plain interpreter unless text goes in."""
    if with_text:
        from ai_edge_litert.interpreter import InterpreterWithCustomOps

        text_ops = runpy.run_path(os.path.join(os.path.dirname(__file__), "text_ops.py"))["text_ops"]
        interpreter = InterpreterWithCustomOps(model_path=path, custom_op_registerers=text_ops())
    else:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=path)
    return lambda signature, inputs: interpreter.get_signature_runner(signature)(**inputs)


def saved_model(path, with_text):
    """Load a SavedModel's signatures; one with a tokenizer loads only where tensorflow-text's ops are known."""
    # TensorFlow imports Keras, and Keras these where it finds them: two seconds for what no SavedModel needs.
    sys.modules.update(dict.fromkeys(["jax", "matplotlib", "pandas", "scipy", "sklearn"]))
    import tensorflow as tf

    if with_text:
        import tensorflow_text  # noqa: F401

    signatures = tf.saved_model.load(path).signatures
    return lambda signature, inputs: signatures[signature](**{k: tf.constant(v) for k, v in inputs.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
