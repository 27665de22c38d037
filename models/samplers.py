"""Samplers: how the tokens behind a prompt are chosen, in keras-hub's protocol.

A sampler is called with a function that gives the logits of a position, and fills a prompt from a position on, in one
loop of `keras.ops`: inside `tf.function` and `jax.jit`, or eagerly. keras-hub's samplers fit into `CausalLM.generate`,
and these into keras-hub's models.

What is drawn is drawn by inverse CDF from uniforms that are made ahead, so that the same uniforms give the same text on
every backend, in an exported file, and in any other language.
"""

import math

import keras
import numpy as np
from keras import ops

from ..checks import check_at_least

__all__ = ["Beam", "Greedy", "Random", "Sampler", "TopK", "TopP", "get_sampler"]


class Sampler:
    """Choose the tokens behind a prompt one by one: the base of all samplers.

    A subclass implements `choose(logits, uniforms)`.

    Attributes: `draws`, whether `choose` uses uniforms.
    """

    draws = False

    @property
    def variables(self) -> list:
        """What a call changes: the state of a seed generator, where there is one."""
        return []

    def __call__(
        self,
        next,
        prompt,
        cache=None,
        index=0,
        mask=None,
        stop_token_ids=None,
        hidden_states=None,
        model=None,
        noise=None,
    ):
        """Fill a prompt from a position on.

        Args:
            next: `next(prompt, cache, index) -> (logits, hidden_states, cache)`: the logits (batch, vocabulary) for the
                token at `index`, after reading the one at `index` - 1.
            prompt: Integers (batch, max_length).
            cache: What `next` carries: a tree of arrays whose first axis is the batch, or None.
            index: The first position to fill.
            mask: Bool or integer (batch, max_length), nonzero where the prompt's own token stays; None for nowhere.
            stop_token_ids: The loop ends once every row has one of these behind its prompt; None for no such ids.
            hidden_states, model: Not used; keras-hub passes them.
            noise: Uniforms in [0, 1) (batch, max_length), of which position `index` of row b uses `noise[b, index]`. If
                None, they are drawn from the sampler's own seed.

        Returns:
            The prompt, filled. What comes after a stop token is arbitrary.
        """
        max_length = ops.shape(prompt)[1]
        prompt, mask = _as_tensors(prompt, mask)
        if self.draws:
            noise = self.draw(ops.shape(prompt)) if noise is None else ops.convert_to_tensor(noise)

        def cond(prompt, cache, index, done):
            return ops.logical_and(index < max_length, ops.logical_not(ops.all(done)))

        def body(prompt, cache, index, done):
            logits, _, cache = next(prompt, cache, index)
            token = self.choose(logits, noise[:, index] if self.draws else None)
            forced = mask[:, index]
            token = ops.where(forced, prompt[:, index], ops.cast(token, prompt.dtype))
            done = ops.logical_or(done, ops.logical_and(_is_stop(token, stop_token_ids), ops.logical_not(forced)))
            return ops.slice_update(prompt, [0, index], token[:, None]), cache, index + 1, done

        done = ops.zeros_like(prompt[:, 0], "bool")
        # A loop's variables must not be None.
        cache = () if cache is None else cache
        return ops.while_loop(cond, body, (prompt, cache, ops.cast(index, "int32"), done))[0]

    def choose(self, logits, uniforms):
        """Return the token ids (batch,) that follow, for logits (batch, vocabulary) and uniforms (batch,) or None."""
        raise NotImplementedError

    def get_config(self):
        """Return the arguments."""
        return {}

    @classmethod
    def from_config(cls, config):
        """Make a sampler from its arguments."""
        return cls(**config)


@keras.saving.register_keras_serializable("krpe_tf")
class Greedy(Sampler):
    """Choose the most probable token; of equal ones, the one of the lowest id."""

    def choose(self, logits, uniforms=None):
        return ops.argmax(logits, axis=-1)


@keras.saving.register_keras_serializable("krpe_tf")
class Random(Sampler):
    """Draw a token by its probability.

    Tokens are ordered by descending probability, of equal ones the lower id first. The token is the first whose
    cumulative share of the mass exceeds the uniform. Subclasses set `k` and `p`, which keep a part of the tokens.

    Args:
        temperature: Divides the logits: below 1 the probable becomes more probable. A number from 1e-6 to 1e6.
        seed: Integer or None: draws the uniforms where none are given, as in keras-hub's models. `CausalLM.generate`
            gives them, from its own `seed`.

    Raises:
        ValueError: For arguments outside of these ranges.
    """

    draws = True
    k: int | None = None
    p: float | None = None

    def __init__(self, temperature: float = 1.0, seed: int | None = None):
        _check_number("from 1e-6 to 1e6", lambda x: 1e-6 <= x <= 1e6, temperature=temperature)
        if seed is not None:
            check_at_least(0, seed=seed)
        self.temperature = temperature
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    @property
    def variables(self) -> list:
        """The state of the seed generator."""
        return [self.seed_generator.state]

    def draw(self, shape):
        """Return uniforms in [0, 1) from the sampler's own seed."""
        return keras.random.uniform(shape, seed=self.seed_generator)

    def choose(self, logits, uniforms):
        logits = ops.cast(logits, "float32")
        # The largest becomes 0 before the division: no temperature overflows.
        logits = (logits - ops.max(logits, axis=-1, keepdims=True)) / self.temperature
        kept, ids = _largest(logits, logits.shape[-1] if self.k is None else min(self.k, logits.shape[-1]))
        mass = ops.exp(kept)
        if self.p is not None:
            wanted = self.p * ops.sum(ops.exp(logits), axis=-1, keepdims=True)
            before = ops.pad(ops.cumsum(mass, axis=-1)[:, :-1], [[0, 0], [1, 0]])
            mass = ops.where(before < wanted, mass, 0)
        cumulative = ops.cumsum(mass, axis=-1)
        exceeded = uniforms[:, None] * cumulative[:, -1:]
        place = ops.sum(ops.cast(cumulative <= exceeded, "int32"), axis=-1, keepdims=True)
        return ops.take_along_axis(ids, place, axis=-1)[:, 0]

    def get_config(self):
        return {"temperature": self.temperature, "seed": self.seed}


@keras.saving.register_keras_serializable("krpe_tf")
class TopK(Random):
    """Draw among the `k` most probable tokens, otherwise as `Random`.

    Args:
        k: How many tokens are kept, at least 1; more than there are keep all.
        temperature, seed: As for `Random`.

    Raises:
        ValueError: For arguments outside of these ranges.
    """

    def __init__(self, k: int = 40, temperature: float = 1.0, seed: int | None = None):
        check_at_least(1, k=k)
        super().__init__(temperature, seed)
        self.k = k

    def get_config(self):
        return {"k": self.k, **super().get_config()}


@keras.saving.register_keras_serializable("krpe_tf")
class TopP(Random):
    """Draw among the fewest tokens whose probabilities sum to `p` or more (nucleus sampling), otherwise as `Random`.

    Args:
        p: Which share of the probability is kept, above 0 and at most 1. The temperature has been applied before.
        temperature: As for `Random`.
        k: At most so many tokens are kept, if it is not None. `p` remains a share of the whole probability.
        seed: As for `Random`.

    Raises:
        ValueError: For arguments outside of these ranges.
    """

    def __init__(self, p: float = 0.9, temperature: float = 1.0, k: int | None = None, seed: int | None = None):
        _check_number("above 0 and at most 1", lambda x: 0 < x <= 1, p=p)
        if k is not None:
            check_at_least(1, k=k)
        super().__init__(temperature, seed)
        self.p = p
        self.k = k

    def get_config(self):
        return {"p": self.p, "k": self.k, **super().get_config()}


@keras.saving.register_keras_serializable("krpe_tf")
class Beam(Sampler):
    """Search for the most probable continuation: the best of `num_beams` are kept at every position.

    A continuation that ends with a stop token is finished; its score is log p / length**length_penalty, of the tokens
    behind the prompt, the stop token among them. The result is the finished one of the highest score; where none
    finishes within `max_length`, the most probable one. The search ends as soon as no other can get a higher score, or
    when as many texts are finished as `patience` allows.

    Args:
        num_beams: How many are kept, at least 1.
        length_penalty: 0 compares log p itself, which favours short ones, 1 its mean. A number of at least 0.
        patience: None, or a number above 0: the search of a row also ends when `patience * num_beams` texts are
            finished, of which only those count that are among the `num_beams` most probable where they end. 1 is the
            rule of fairseq: it is cheaper, since with a length penalty a higher score is nearly always within reach of
            a text that goes on to `max_length`, and may find a lower score.

    Raises:
        ValueError: For arguments outside of these ranges.
    """

    def __init__(self, num_beams: int = 5, length_penalty: float = 1.0, patience: float | None = None):
        check_at_least(1, num_beams=num_beams)
        _check_number("of at least 0", lambda x: x >= 0, length_penalty=length_penalty)
        if patience is not None:
            _check_number("above 0", lambda x: x > 0, patience=patience)
        self.num_beams = num_beams
        self.length_penalty = length_penalty
        self.patience = patience

    def __call__(
        self,
        next,
        prompt,
        cache=None,
        index=0,
        mask=None,
        stop_token_ids=None,
        hidden_states=None,
        model=None,
        noise=None,
    ):
        """Fill a prompt from a position on; arguments as for `Sampler`, `noise` is not used."""
        beams = self.num_beams
        batch, max_length = ops.shape(prompt)
        index = ops.cast(index, "int32")
        prompt, mask = _as_tensors(prompt, mask)
        free = ops.logical_and(ops.logical_not(mask), ops.arange(max_length) >= index)
        most = ops.sum(ops.cast(free, "float32"), axis=-1)
        rows = ops.arange(batch)[:, None] * beams
        search = {
            "texts": ops.repeat(prompt[:, None], beams, axis=1),
            # All beams begin alike, so only the first counts.
            "log_p": ops.zeros((batch, 1)) + ops.convert_to_tensor([0.0] + [-math.inf] * (beams - 1)),
            "length": ops.zeros((batch,)),
            "best": prompt,
            "best_score": ops.full((batch,), -math.inf),
            "finished": ops.zeros((batch,)),
        }

        def cond(index, cache, search):
            # log p only falls, and is divided by a length of at most `most`.
            goes_on = search["best_score"] < self._score(search["log_p"][:, 0], most)
            goes_on = ops.logical_and(goes_on, ops.logical_not(self._is_done(search)))
            return ops.logical_and(index < max_length, ops.any(goes_on))

        def body(index, cache, search):
            logits, _, cache = next(ops.reshape(search["texts"], (batch * beams, max_length)), cache, index)
            size = logits.shape[-1]
            log_shares = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
            totals = search["log_p"][:, :, None] + ops.reshape(log_shares, (batch, beams, size))
            free_here = free[:, index]
            search = {**search, "length": search["length"] + ops.cast(free_here, "float32")}
            if stop_token_ids is not None:
                search = self._finish(search, totals, index, free_here, stop_token_ids)
                totals = ops.where(_is_stop(ops.arange(size), stop_token_ids), -math.inf, totals)
            parent, search = self._extend(search, totals, index, free_here)
            followed = ops.reshape(rows + parent, (-1,))
            cache = keras.tree.map_structure(lambda x: ops.take(x, followed, axis=0), cache)
            return index + 1, cache, search

        cache = () if cache is None else cache
        cache = keras.tree.map_structure(lambda x: ops.repeat(x, beams, axis=0), cache)
        _, _, search = ops.while_loop(cond, body, (index, cache, search))
        finished = search["best_score"][:, None] > -math.inf
        return ops.where(finished, search["best"], search["texts"][:, 0])

    def _score(self, log_p, length):
        return log_p / ops.maximum(length, 1.0) ** self.length_penalty

    def _is_done(self, search):
        return search["finished"] >= (math.inf if self.patience is None else self.patience * self.num_beams)

    def _finish(self, search, totals, index, free_here, stop_token_ids):
        """Return the search after the best text that a stop token finishes here is compared with the best so far."""
        free_here = ops.logical_and(free_here, ops.logical_not(self._is_done(search)))
        stops = ops.convert_to_tensor(list(stop_token_ids), "int32")
        ends = ops.reshape(ops.take(totals, stops, axis=-1), (totals.shape[0], -1))
        if self.patience is not None:
            least = _largest(ops.reshape(totals, (totals.shape[0], -1)), self.num_beams)[0][:, -1:]
            ends = ops.where(ends >= least, ends, -math.inf)
        count = ops.sum(ops.cast(ends > -math.inf, "float32"), axis=-1)
        place = ops.argmax(ends, axis=-1)
        parent, token = place // stops.shape[0], ops.take(stops, place % stops.shape[0])
        text = _continue_texts(search["texts"], parent[:, None], token[:, None], index)[:, 0]
        score = self._score(ops.max(ends, axis=-1), search["length"])
        better = ops.logical_and(free_here, score > search["best_score"])
        return {
            **search,
            "best": ops.where(better[:, None], text, search["best"]),
            "best_score": ops.where(better, score, search["best_score"]),
            "finished": search["finished"] + ops.where(free_here, count, 0),
        }

    def _extend(self, search, totals, index, free_here):
        """Return which text each beam follows, and the search with the most probable texts by one token longer."""
        texts, free_here = search["texts"], free_here[:, None]
        size = totals.shape[-1]
        log_p, place = _largest(ops.reshape(totals, (totals.shape[0], -1)), self.num_beams)
        # A token of the prompt changes neither order nor scores.
        parent = ops.where(free_here, place // size, ops.arange(self.num_beams))
        token = ops.where(free_here, place % size, texts[:, :, index])
        log_p = ops.where(free_here, log_p, search["log_p"])
        return parent, {**search, "texts": _continue_texts(texts, parent, token, index), "log_p": log_p}

    def get_config(self):
        return {"num_beams": self.num_beams, "length_penalty": self.length_penalty, "patience": self.patience}


SAMPLERS = {"greedy": Greedy, "random": Random, "top_k": TopK, "top_p": TopP, "beam": Beam}


def get_sampler(sampler):
    """Return the sampler of a name, with its default arguments; an object as it is.

    Args:
        sampler: "greedy", "random", "top_k", "top_p", "beam", or a sampler, also one of keras-hub.

    Raises:
        ValueError: For another name, or what is no sampler.
    """
    if isinstance(sampler, str) and sampler in SAMPLERS:
        return SAMPLERS[sampler]()
    if callable(sampler) and not isinstance(sampler, type):
        return sampler
    raise ValueError(
        f"`sampler` must be one of {', '.join(map(repr, SAMPLERS))}, or a sampler object. Received: sampler={sampler!r}"
    )


def _check_number(rule: str, holds, **arguments):
    """Raise a ValueError unless every named argument is a finite number for which `holds`; `rule` says when."""
    for name, value in arguments.items():
        is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if not (is_number and math.isfinite(value) and holds(value)):
            raise ValueError(f"`{name}` must be a number {rule}. Received: {name}={value!r}")


def _as_tensors(prompt, mask):
    """Return the prompt and where it is forced, bool."""
    prompt = ops.convert_to_tensor(prompt)
    return prompt, ops.zeros_like(prompt, "bool") if mask is None else ops.cast(mask, "bool")


def _largest(x, k: int):
    """Return the k largest numbers of each row, and their places; of equal ones the first comes first."""
    if keras.backend.backend() == "torch":  # Its top_k leaves the order of equal ones open.
        places = ops.argsort(-x, axis=-1)[:, :k]
        return ops.take_along_axis(x, places, axis=-1), places
    return ops.top_k(x, k)


def _is_stop(ids, stop_token_ids):
    """Return where ids are among the stop ids, bool."""
    if stop_token_ids is None:
        return ops.zeros_like(ids, "bool")
    return ops.any(ops.equal(ids[..., None], ops.convert_to_tensor(list(stop_token_ids), ids.dtype)), axis=-1)


def _continue_texts(texts, parent, token, index):
    """Return the texts (batch, parents, max_length) of `parent` (batch, k), with `token` (batch, k) at `index`."""
    texts = ops.take_along_axis(texts, parent[:, :, None], axis=1)
    return ops.slice_update(texts, [0, 0, index], ops.cast(token, texts.dtype)[:, :, None])
