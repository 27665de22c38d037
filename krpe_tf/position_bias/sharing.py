"""Position biases that several layers share, on every way through a config and back.

In a file of its own format Keras keeps shared layers shared. Where it rebuilds a model layer by layer, each layer's
config holds a copy of the bias: here the copies are made one again.
"""

import itertools
import sys
import threading
import weakref

from keras import saving

# Below zero: Keras' own are counted from zero, or addresses.
_numbers, _next_number = weakref.WeakKeyDictionary(), itertools.count(-1, -1)
_owners = weakref.WeakKeyDictionary()  # of a bias: the attention layers that compute with it


class _Rebuilt(threading.local):
    """The biases that this thread has rebuilt, as long as they live, and which owners have got each."""

    def __init__(self):
        self.biases = weakref.WeakValueDictionary()
        self.owners = weakref.WeakKeyDictionary()


_rebuilt = _Rebuilt()


def note_owner(bias, layer) -> None:
    """Note that an attention layer that is built computes with a bias, which may be None."""
    if bias is not None:
        _owners.setdefault(bias, weakref.WeakSet()).add(layer)


def serialize_bias(bias, owner, name: str | None = None, serialize=saving.serialize_keras_object):
    """Return what stands for a bias in the config of a layer or model.

    Args:
        bias: a bias layer; a name or None stand for themselves.
        owner: the layer or model that was given the bias.
        name: the argument that `owner` made the bias of.
        serialize: `serialize_keras_object` of Keras or tf_keras.

    Returns:
        `name`, or what `serialize` gives. Where several layers that are built share the bias, what `serialize` gives
        and two numbers: "shared_object_id", one for all owners of the bias, which Keras reads where it loads its own
        files, and "owner_id".
    """
    if bias is None or isinstance(bias, str):
        return bias
    if len(_owners.get(bias, ())) < 2:
        # Twice: within a file Keras marks as shared what comes again, and its mark on the first is lost in a copy.
        return [serialize(bias), serialize(bias)][-1] if name is None else name
    return {**serialize(bias), "shared_object_id": _number(bias), "owner_id": _number(owner)}


def deserialize_bias(config, deserialize=saving.deserialize_keras_object):
    """Return the bias of a config. Within one rebuild it is that which the other owners of the bias have got.

    A rebuild is the outermost call of Keras, or of a `from_config`, that is under way; in it each owner comes once.
    Outside of one, and for configs without numbers (krpe_tf 0.1), the bias is a new one. A name or None is returned as
    it is.

    Args:
        config: what `serialize_bias` returned, or what Keras alone does.
        deserialize: `deserialize_keras_object` of Keras or tf_keras.
    """
    if not isinstance(config, dict):
        return config
    bias = deserialize(config)
    rebuild = _rebuild(sys._getframe(2))  # the caller of the owner's `from_config`
    if rebuild is None or not {"shared_object_id", "owner_id"} <= config.keys():
        return bias
    if deserialize(config) is bias:
        return bias  # Keras loads a file, and shares by itself.
    key, owner = (*rebuild, config["shared_object_id"]), config["owner_id"]
    shared = _rebuilt.biases.get(key)
    if shared is None or owner in _rebuilt.owners[shared]:
        # An owner that comes again is of another rebuild, whose call lies where an earlier one lay.
        shared = _rebuilt.biases[key] = bias
        _rebuilt.owners[shared] = set()
    _rebuilt.owners[shared].add(owner)
    return shared


def _number(thing) -> int:
    """Return a number that no other object of this process has, nor a copy of this one."""
    return _numbers.setdefault(thing, next(_next_number))


def _rebuild(frame) -> tuple | None:
    """Return what tells one rebuild from others: its outermost call and from where that was made; None without one."""
    outermost = None
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package in ("keras", "tf_keras") or frame.f_code.co_name == "from_config":
            outermost = frame
        frame = frame.f_back
    if outermost is None:
        return None
    caller = outermost.f_back
    return (id(outermost), *((id(caller), caller.f_lasti) if caller else ()))
