"""Text from a model that reads it token by token: prompts, checked and read, and the loop of a sampler behind them.

A model gives `initial_state(batch_size)`, a tree of arrays whose first axis is the batch, and
`step(token_ids (batch, k), state, count=None) -> (logits (batch, k, vocabulary), state)`, which reads the first `count`
tokens; and `vocabulary_size`, its own or its encoder's.
"""

from collections.abc import Collection, Iterator

import numpy as np
from keras import ops

from ..attention import check_mask_values
from ..checks import check_at_least
from .programs import kept_program
from .samplers import SAMPLERS, Sampler, get_sampler

# A prompt is read in pieces of the larger size, and the last is padded to a power of two: few programs for all lengths.
LARGEST_PIECE, SMALLEST_PIECE = 1024, 16
# Where nothing is written yet. No token has this id: a sampler that looks for stop tokens finds none.
NOTHING = -1


# Long: the arguments of a model's own `generate`, and where its state comes from.
def generate(
    model,
    token_ids,
    max_length: int,
    sampler="greedy",
    stop_token_ids=None,
    seed: int | None = None,
    padding_mask=None,
    pad_id: int = 0,
    state=None,
    fixed: Collection[str] = (),
) -> np.ndarray:
    """Continue prompts; see `CausalLM.generate`.

    Rows that are longer than the shortest are read in the same loop that writes the others.

    Args:
        model: See the top of this module.
        token_ids, max_length, sampler, stop_token_ids, seed, padding_mask, pad_id: As for `CausalLM.generate`.
        state: What the model has read before the prompts, or a function that reads it, called once all arguments are
            checked; None for `model.initial_state(batch_size)`.
        fixed: Names of arrays of the state, a dict, that steps leave as they are. All beams of a row share its own:
            the model's step then gets them with fewer rows than tokens.

    Returns:
        int32 (batch, max_length).

    Raises:
        ValueError: As `CausalLM.generate`.
    """
    size = _vocabulary_size(model)
    prompts, lengths = _left_aligned(token_ids, padding_mask, size)
    check_at_least(1, max_length=max_length)
    if max_length < lengths.max():
        raise ValueError(
            f"`max_length` must be at least the length of the longest prompt, {lengths.max()}. "
            f"Received: max_length={max_length}"
        )
    stops = _check_stops(stop_token_ids, size)
    check_id(size, pad_id=pad_id)
    sampler = _check_sampler(sampler, seed)

    shortest = int(lengths.min())
    texts = np.full((len(prompts), max_length), NOTHING, "int32")
    texts[:, : prompts.shape[1]] = prompts
    if shortest < max_length:
        state = model.initial_state(len(texts)) if state is None else state
        state = state() if callable(state) else state
        state = _read(model, texts[:, : shortest - 1], state)
        is_prompt = np.arange(max_length) < lengths[:, None]
        texts = _write(model, texts, is_prompt, shortest, state, sampler, stops, seed, fixed)
    texts = _pad_after_stop(texts, lengths, stops, pad_id)
    if (texts == NOTHING).any():
        raise ValueError("the model must give numbers as logits. Received: NaN, of which no token is the largest")
    return texts


def stream(
    model, token_ids, max_tokens: int, sampler="greedy", stop_token_ids=None, seed: int | None = None, state=None
) -> Iterator[int]:
    """Continue one prompt, and give each token as soon as it is chosen; see `CausalLM.stream`.

    Args:
        model: See the top of this module.
        token_ids, max_tokens, sampler, stop_token_ids, seed: As for `CausalLM.stream`.
        state: What the model has read before the prompt; None for `model.initial_state(1)`.

    Returns:
        An iterator of ids.

    Raises:
        ValueError: As `CausalLM.stream`.
    """
    size = _vocabulary_size(model)
    ids = check_integers(token_ids, "token_ids", 1)
    prompt, _ = _left_aligned(ids[None], None, size)
    check_at_least(1, max_tokens=max_tokens)
    stops = _check_stops(stop_token_ids, size)
    sampler = _check_sampler(sampler, seed)
    if hasattr(sampler, "num_beams"):
        raise ValueError(
            "`sampler` must choose a token at a time to stream, which a beam search does not: use `generate`. "
            f"Received: sampler={sampler!r}"
        )
    return _stream(model, prompt, max_tokens, sampler, stops or (), seed, state)


def _stream(model, prompt, max_tokens, sampler, stops, seed, state):
    state = _read(model, prompt[:, :-1], model.initial_state(1) if state is None else state)

    def step(token, state, *noise):
        logits, state = model.step(token, state)
        # A loop of one position, whose logits are known.
        text = sampler(
            next=lambda prompt, cache, index: (logits[:, 0], None, cache),
            prompt=ops.zeros_like(token),
            index=0,
            model=model,
            **_named(noise),
        )
        return text, state

    # Not by XLA, which takes longer to compile a single step than a few hundred of them take.
    program = kept_program(model, ("stream", _identity(sampler)), step, _variables(sampler))
    random = np.random.default_rng(seed)
    # As in `generate`, a position's uniform follows that of the position before.
    _noise(sampler, random, prompt.shape)
    token = prompt[:, -1:]
    for _ in range(max_tokens):
        token, state = program(token, state, *_noise(sampler, random, (1, 1)))
        token_id = int(ops.convert_to_numpy(token)[0, 0])
        yield token_id
        if token_id in stops:
            return


def _read(model, token_ids: np.ndarray, state):
    """Return the state after `token_ids` (batch, n), n >= 0."""

    def read(piece, state, count):
        # The logits are not computed: nothing asks for them.
        return model.step(piece, state, count=count)[1]

    for start in range(0, token_ids.shape[1], LARGEST_PIECE):
        piece = token_ids[:, start : start + LARGEST_PIECE]
        count = piece.shape[1]
        size = max(SMALLEST_PIECE, 1 << (count - 1).bit_length())
        piece = np.pad(piece, [[0, 0], [0, size - count]])
        state = kept_program(model, ("read", piece.shape), read)(piece, state, np.int32(count))
    return state


def _write(model, texts, is_prompt, index, state, sampler, stops, seed, fixed=()) -> np.ndarray:
    """Return texts (batch, max_length), filled from position `index` on; the state has read all but the last before."""

    def write(texts, is_prompt, index, state, *noise):
        kept = {name: state[name] for name in fixed}

        def next(texts, state, index):
            token = ops.slice(texts, [0, index - 1], [ops.shape(texts)[0], 1])
            logits, state = model.step(token, {**state, **kept} if kept else state)
            return logits[:, 0], None, _without(state, fixed)

        state = _without(state, fixed)
        return sampler(
            next=next,
            prompt=texts,
            cache=state,
            index=index,
            mask=is_prompt,
            stop_token_ids=stops,
            model=model,
            **_named(noise),
        )

    key = ("write", texts.shape, stops, _identity(sampler))
    program = kept_program(model, key, write, _variables(sampler), jit_compile=True)
    noise = _noise(sampler, np.random.default_rng(seed), texts.shape)
    return np.array(ops.convert_to_numpy(program(texts, is_prompt, np.int32(index), state, *noise)))


def _without(state, names):
    return {name: x for name, x in state.items() if name not in names} if names else state


def _pad_after_stop(texts, lengths, stops, pad_id):
    """Write `pad_id` behind the first stop token that follows a prompt."""
    if stops:
        is_stop = np.isin(texts, stops) & (np.arange(texts.shape[1]) >= lengths[:, None])
        ended = np.cumsum(is_stop, axis=1) - is_stop > 0
        texts = np.where(ended, pad_id, texts)
    return texts.astype("int32")


def _noise(sampler, random: np.random.Generator, shape) -> list[np.ndarray]:
    """Return uniforms in a list, or an empty one for a sampler that takes none."""
    return [random.random(shape, "float32")] if isinstance(sampler, Sampler) and sampler.draws else []


def _named(noise) -> dict:
    return {"noise": noise[0]} if noise else {}


def _variables(sampler) -> list:
    return list(getattr(sampler, "variables", ()))


def _identity(sampler):
    """Return what tells a sampler from others: the arguments of one of ours, the object for any other."""
    config = repr(sampler.get_config()) if hasattr(sampler, "get_config") else None
    return (type(sampler) if type(sampler) in SAMPLERS.values() else id(sampler), config)


def _vocabulary_size(model) -> int:
    return getattr(model, "vocabulary_size", None) or model.encoder.vocabulary_size


def _left_aligned(token_ids, padding_mask, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return checked prompts, each from the first position on with `NOTHING` behind it, and their lengths."""
    ids = check_integers(token_ids, "token_ids", 2)
    if not ids.size:
        raise ValueError(f"`token_ids` must hold at least one token a row. Received: shape {ids.shape}")
    if padding_mask is None:
        mask = np.ones(ids.shape, bool)
    else:
        mask = _array(padding_mask)
        check_mask_values(padding_mask=mask)
        mask = mask != 0
        if mask.shape != ids.shape:
            raise ValueError(
                f"`padding_mask` must have the shape of `token_ids`, {ids.shape}. Received: shape {mask.shape}"
            )
    lengths = mask.sum(axis=1)
    if not lengths.all():
        raise ValueError(
            f"`padding_mask` must show at least one token of every row. Received: none in row {int(np.argmin(lengths))}"
        )
    runs = mask[:, 0] + (mask[:, 1:] & ~mask[:, :-1]).sum(axis=1)
    if (runs > 1).any():
        raise ValueError(
            "`padding_mask` must hide positions before or behind a prompt, none within. "
            f"Received: {mask[np.argmax(runs)].astype(int).tolist()} in row {int(np.argmax(runs))}"
        )
    _check_range("token_ids", ids[mask], size)
    order = np.argsort(~mask, axis=1, kind="stable")[:, : lengths.max()]
    aligned = np.take_along_axis(np.where(mask, ids, NOTHING), order, axis=1)
    return aligned.astype("int32"), lengths


def _check_range(name: str, ids: np.ndarray, size: int):
    if ids.size and (ids.min() < 0 or ids.max() >= size):
        raise ValueError(
            f"`{name}` must lie in the vocabulary, from 0 to {size - 1}. Received: ids from {ids.min()} to {ids.max()}"
        )


def check_id(size: int, **arguments):
    """Raise a ValueError unless every named argument is an id of a vocabulary of this size."""
    for name, value in arguments.items():
        check_at_least(0, **{name: value})
        _check_range(name, np.array([value]), size)


def _check_stops(stop_token_ids, size: int) -> tuple[int, ...] | None:
    """Return the stop ids as a tuple, None for none."""
    if stop_token_ids is None:
        return None
    ids = check_integers(stop_token_ids, "stop_token_ids", 1)
    _check_range("stop_token_ids", ids, size)
    return tuple(sorted({int(x) for x in ids})) or None


def _check_sampler(sampler, seed):
    sampler = get_sampler(sampler)
    if seed is not None:
        check_at_least(0, seed=seed)
        if not isinstance(sampler, Sampler):
            raise ValueError(
                "`seed` must be None for a sampler of another library, which draws from a seed of its own. "
                f"Received: seed={seed}, sampler={sampler!r}"
            )
    if getattr(sampler, "return_all_beams", False):
        raise ValueError(f"`sampler` must give one text a row, not all beams. Received: sampler={sampler!r}")
    return sampler


def padded_length(count: int) -> int:
    """Return a length of at least `count` of which there are few: a multiple of an eighth of a power of two."""
    step = max(SMALLEST_PIECE, (1 << (count - 1).bit_length()) // 8)
    return -(-count // step) * step


def check_integers(values, name: str, rank: int) -> np.ndarray:
    """Return an array of integers of this rank, 1 or 2, from a tensor of any backend, an array or lists.

    Raises:
        ValueError: For anything else; names the argument.
    """
    rule = f"`{name}` must be integers of shape {'(batch, n): put one text into [[...]]' if rank == 2 else '(n,)'}"
    try:
        array = _array(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{rule}. Received: {name}={values!r:.80}") from error
    is_empty = array.ndim == rank and not array.size
    if array.ndim != rank or not (is_empty or np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{rule}. Received: {array.dtype.name}, shape {array.shape}")
    return array


def _array(values) -> np.ndarray:
    return np.asarray(values if isinstance(values, (list, tuple)) else ops.convert_to_numpy(values))
