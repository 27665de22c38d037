"""The banded route: linear cost, matmuls only, all terms positive.

Queries are split into chunks of C, and keys into chunks on a grid `lead` places earlier. Queries of chunk J meet the
keys of chunks J .. J + blocks - 1 directly: that covers the near band on both sides. All other keys lie in the
exponential tails, where the weight of a key for a query factors over chunk borders. For a key in an earlier chunk,

    exp(-s (i - j - radius)) = exp(-s (x + nearest)) * exp(-s C (J - I - 1)) * exp(-s (C - 1 - y)),

x and y the places within the chunks J and I, `nearest` = lead + 1 - radius. Each factor is at most 1. So a chunk's keys
reach all queries through one sum of m x (d + 1) numbers a term, and these sums are carried from chunk to chunk within
groups of chunks, and from group to group: O(n) up to about a million positions.

With several documents in a row, pairs that meet directly are compared one by one. A sum that crosses a border of chunks
belongs to the one document that spans the border: a key enters it only if its document reaches the border of its chunk,
a query takes it only if it is of that document, and it is carried on only where the next border is spanned by the same
one. All are factors of 0 and 1: nothing is ever subtracted.
"""

import numpy as np
from keras import ops

from ..position_bias import NoBias
from .numerics import at_least_float32, divide, fold_heads, hide_keys, per_sequence, toeplitz_rows
from .sums import read_sums, sum_keys

# One size for most lengths: the signatures of an exported file then share its constants.
SMALLEST_CHUNK = 64
# Chunks between which sums are carried by one small matrix.
GROUP = 16


def banded_attention(query_features, key_features, value, position_bias, *, causal, key_mask, segments=None):
    """Compute attention for any bias of a near band and exponential tails, at O(n) time and memory for a fixed radius.

    Range: a row whose visible keys all have weights below about exp(-70) of the head's largest becomes zeros.

    Args and returns: as `toeplitz_attention`; `segments`: None, or from `number_segments`.
    """
    query, key, value = at_least_float32(query_features), at_least_float32(key_features), at_least_float32(value)
    key, value = hide_keys(key, value, key_mask)
    batch, heads, n_q, m = ops.shape(query)
    n_k, d = ops.shape(value)[2:]
    if isinstance(position_bias, NoBias) and not causal and segments is None:
        return read_sums(query, sum_keys(key, value))
    static = isinstance(n_q, int) and isinstance(n_k, int)
    n = max(n_q, n_k) if static else ops.maximum(n_q, n_k)
    chunk, blocks = chunk_plan(n if static else None, position_bias.radius, m, causal)
    lead = _lead(chunk, blocks, causal)
    chunks = -(-n // chunk) if static else ops.maximum(-(-n // chunk), 1)
    key_chunks = chunks + blocks - 1

    def split(x, before, count, ones=0):
        """Reshape to (batch * heads, count, chunk, width + ones), padded with zeros, or with the value's ones."""
        after, width = count * chunk - ops.shape(x)[2] - before, x.shape[-1] + ones
        x = ops.pad(x, [[0, 0], [0, 0], [before, after], [0, ones]], constant_values=ones)
        return ops.reshape(fold_heads(x), (-1, count, chunk, width))

    query, key = split(query, 0, chunks), split(key, lead, key_chunks)
    value = split(value, lead, key_chunks, ones=1)
    if segments is not None:
        # Of queries and of keys, (batch * heads, count, chunk, 1). Padding belongs to none: it is 0.
        segments = ops.tile(segments[:, None, :, None], (1, heads, 1, 1))
        segments = split(segments, 0, chunks), split(segments, lead, key_chunks)
    weights, largest = _near_weights(position_bias, chunk, blocks, lead, n if static else None, causal, value.dtype)
    weights = per_sequence(weights, batch)[:, None]
    sums = 0
    for block, here in enumerate(ops.split(weights, blocks, axis=-1)):
        similarity = ops.matmul(query, ops.swapaxes(_chunks(key, block, chunks), -1, -2))
        if segments is not None:
            same = segments[0] == ops.swapaxes(_chunks(segments[1], block, chunks), -1, -2)
            here = ops.where(same, here, 0)
        sums = sums + ops.matmul(similarity * here, _chunks(value, block, chunks))
    if not (static and chunks * chunk <= chunk + lead):
        sums = sums + _far_sums(query, key, value, position_bias, largest, causal, blocks, batch, segments)
    sums = ops.reshape(sums, (-1, heads, chunks * chunk, d + 1))
    return divide(sums if static and n_q == chunks * chunk else sums[:, :, :n_q])


def chunk_plan(n: int | None, radius: int, m: int, causal: bool) -> tuple[int, int]:
    """Return the length of a chunk, and how many chunks of keys one of queries meets directly.

    Two chunks, the grid of keys half a chunk early, reach half a chunk to both sides of every query, and three a whole
    one; where nothing is seen ahead, two reach a whole one back. The length is the fastest measured: shorter chunks are
    fewer pairs and more sums, whose size grows with the features.

    Args:
        n: the longer of the lengths of queries and keys, or None where it is not known.
        radius: of the bias.
        m: width of the features.
        causal: whether keys after the query are hidden.
    """
    if n is not None and n <= 2 * SMALLEST_CHUNK:
        return max(n, 1), 1
    chunk = SMALLEST_CHUNK if m <= 32 else 2 * SMALLEST_CHUNK
    if not causal and 2 * (radius - 1) <= chunk:
        return chunk, 2
    chunk = max(chunk, -(-(radius - 1) // 32) * 32)
    if n is not None and n <= chunk:
        return n, 1
    return chunk, 2 if causal else 3


def _lead(chunk, blocks, causal):
    """Return by how many places the grid of keys is earlier than that of queries."""
    return (blocks - 1) * chunk if causal else (blocks - 1) * chunk // 2


def group_size(key_chunks: int) -> int:
    """Return a size of groups near `GROUP` that leaves the fewest places of the last group empty."""
    if key_chunks <= GROUP:
        return key_chunks
    return min(range(GROUP // 2, 2 * GROUP), key=lambda size: (-key_chunks % size, abs(size - GROUP)))


def _near_weights(position_bias, chunk, blocks, lead, n, causal, dtype):
    """Return c between a chunk of queries and those it meets, (heads, chunk, blocks * chunk), and log of the largest.

    The largest is divided out: c enters as a ratio. Wherever there are far sums, offsets of `radius` are among those
    it is the maximum of, so that no amplitude exceeds it.
    """
    offsets = ops.arange((blocks + 1) * chunk - 1) - (chunk - 1 + lead)
    reached = ops.abs(offsets) < (n or 2 * chunk)
    if causal:
        reached = ops.logical_and(reached, offsets <= 0)
    log_weights = ops.cast(position_bias.log_weights(offsets), dtype)
    largest = ops.stop_gradient(ops.max(ops.where(reached, log_weights, -1e30), axis=-1, keepdims=True))
    weights = ops.where(reached, ops.exp(ops.where(reached, log_weights - largest, 0)), 0)
    return toeplitz_rows(weights, chunk, blocks * chunk), largest


def _chunks(x, first, count):
    """Return chunks first .. first + count - 1. Indexing would have a slow gradient on TensorFlow."""
    size, _, chunk, width = ops.shape(x)
    return ops.slice(x, (0, first, 0, 0), (size, count, chunk, width))


def _far_sums(query, key, value, position_bias, largest, causal, blocks, batch, segments):
    """Return the sums over the chunks that a query does not meet, before it and, with two sides, after it."""
    sides = 1 if causal else 2
    size, chunks, chunk, m = ops.shape(query)
    key_chunks, width = ops.shape(key)[1], value.shape[-1]
    key_decays, query_decays, chunk_decays = _decays(position_bias, largest, chunk, blocks, causal, value.dtype)
    heads, _, count = key_decays.shape
    terms = count // sides
    keys, queries, borders = [key] * sides, [query] * sides, None
    if segments is not None:
        keys, queries, borders = _of_borders(query, key, *segments, blocks, sides)

    def decayed(features, decays):
        """Repeat each side's features for every term, with its decay: (batch * heads, chunks, chunk, count * m)."""
        # Each decay m times. `repeat` is a long graph on TensorFlow, and `broadcast_to` slow on LiteRT.
        decays = decays[..., None] * ops.ones((m,), decays.dtype)
        decays = ops.reshape(decays, (heads, chunk, count * m))
        features = ops.concatenate([side for side in features for _ in range(terms)], axis=-1)
        return features * per_sequence(decays, batch)[:, None]

    sums = ops.matmul(ops.swapaxes(decayed(keys, key_decays), -1, -2), value)
    sums = ops.swapaxes(ops.reshape(sums, (-1, key_chunks, count, m * width)), 1, 2)
    sums = ops.reshape(sums, (-1, key_chunks, m * width))
    sums = _carry(sums, chunk_decays, sides, batch, borders)
    # Sums from before the chunk lie at its own place, those from after it at the place of the last chunk that it meets.
    sums = ops.reshape(sums, (size, count, ops.shape(sums)[1], m * width))
    parts = [
        ops.slice(sums, (0, side * terms, side * (blocks - 1), 0), (size, terms, chunks, m * width))
        for side in range(sides)
    ]
    sums = ops.swapaxes(ops.concatenate(parts, axis=1), 1, 2)
    sums = ops.reshape(sums, (size, chunks, count * m, width))
    return ops.matmul(decayed(queries, query_decays), sums)


def _decays(position_bias, largest, chunk, blocks, causal, dtype):
    """Return the decays from a key to the border of its chunk, from there to a query, and of the log over one chunk.

    The first two are (heads, chunk, count), the last is (heads, count): one column for every side and term.
    """
    sides, lead = 1 if causal else 2, _lead(chunk, blocks, causal)
    log_amplitudes, rates = (
        ops.squeeze(ops.concatenate(ops.split(ops.cast(part, dtype), 2)[:sides], axis=-1), 0)
        for part in position_bias.tails()
    )
    heads, count = rates.shape
    place = np.arange(chunk)[:, None]
    to_border = np.concatenate([chunk - 1 - place, place][:sides], axis=1)
    nearest = np.array([lead, blocks * chunk - lead - chunk])[:sides] + 1 - position_bias.radius
    # Given for each head: LiteRT's converter folds no constant that grows much.
    to_border, from_border = (
        ops.convert_to_tensor(np.tile(np.repeat(places, count // sides, axis=1), (heads, 1, 1)), dtype)
        for places in (to_border, chunk - 1 - to_border + nearest)
    )
    key_decays = ops.exp(-rates[:, None] * to_border)
    # The amplitude goes with the query: it may be small, and the sum that it weighs is not.
    query_decays = ops.exp((log_amplitudes - largest)[:, None] - rates[:, None] * from_border)
    return key_decays, query_decays, rates * chunk


def _of_borders(query, key, of_queries, of_keys, blocks, sides):
    """Keep, on each side, the keys and queries of the one document whose sum crosses the border that they reach.

    Returns:
        For each side the keys that reach the border of their chunk that later queries, or earlier ones, lie behind, and
        the queries that the sum which comes to them belongs to, zeros in place of others; and the document at that
        border of every chunk of keys, (batch * heads, sides, key_chunks).
    """
    chunks, (size, key_chunks, chunk, _) = ops.shape(query)[1], ops.shape(of_keys)
    borders = [ops.slice(of_keys, (0, 0, place, 0), (size, key_chunks, 1, 1)) for place in (chunk - 1, 0)[:sides]]
    keys = [ops.where(of_keys == border, key, 0) for border in borders]
    # The sums that come to chunk J were carried out of the keys' chunks J - 1 and J + blocks.
    come = [
        ops.slice(ops.pad(border, [[0, 0], [1, 1], [0, 0], [0, 0]]), (0, first, 0, 0), (size, chunks, 1, 1))
        for border, first in zip(borders, (0, blocks + 1), strict=False)
    ]
    queries = [ops.where(of_queries == border, query, 0) for border in come]
    return keys, queries, ops.concatenate([ops.reshape(border, (-1, 1, key_chunks)) for border in borders], axis=1)


def _carry(sums, decays, sides, batch, borders):
    """Return for each chunk the decayed sum of all chunks before it or, on the second side, after it.

    Args:
        sums: (batch * heads * sides * terms, key_chunks, width).
        decays: (heads, sides * terms), by how much the log of a weight falls with one chunk more between.
        sides: 1 for sums from before, 2 for those from after too.
        borders: None, or (batch * heads, sides, key_chunks), the document that the sum of each chunk is of.

    Returns:
        The same shape, with more chunks where the last group was padded.
    """
    key_chunks, width = ops.shape(sums)[1:]
    group = group_size(key_chunks) if isinstance(key_chunks, int) else GROUP
    groups = -(-key_chunks // group)
    if not isinstance(key_chunks, int) or groups * group > key_chunks:
        more = [0, groups * group - key_chunks]
        sums = ops.pad(sums, [[0, 0], more, [0, 0]])
        borders = None if borders is None else ops.pad(borders, [[0, 0], [0, 0], more])
    terms = decays.shape[1] // sides
    direction = np.repeat([1, -1][:sides], terms)[:, None]

    def matrices(decays, to, come):
        """Return exp(-decay * chunks between), zero on the other side; to, come: places (sides * terms or 1, rows)."""
        between = direction[..., None] * (to[:, :, None] - come[:, None]) - 1
        between = ops.tile(between, (decays.shape[0], 1, 1))
        distance = ops.cast(ops.maximum(between, 0), decays.dtype)
        made = ops.where(between >= 0, ops.exp(-ops.reshape(decays, (-1, 1, 1)) * distance), 0)
        return per_sequence(made, batch)

    def within_documents(matrices, documents):
        """Put zeros where the document at the place that is come to differs from that of the sum."""
        if documents is None:
            return matrices
        to, come = (
            # Not `repeat`, which holds a tensor of one rank more.
            ops.reshape(
                ops.concatenate([side for side in ops.split(x, sides, axis=1) for _ in range(terms)], axis=1),
                (-1, *ops.shape(x)[2:]),
            )
            for x in documents
        )
        return ops.where(to[..., None] == come[..., None, :], matrices, 0)

    places = np.arange(group)[None]
    if isinstance(groups, int) and groups == 1:
        documents = None if borders is None else (_come_to(borders), borders)
        return ops.matmul(within_documents(matrices(decays, places, places), documents), sums)
    leaving, across, entering = (None,) * 3 if borders is None else _documents_of_groups(borders, groups, group)
    before, after = np.where(direction > 0, -1, group), np.where(direction > 0, group, -1)
    sums = ops.reshape(sums, (-1, groups, group, width))
    # The total that each group passes on, carried from group to group; it enters a group as one chunk at its border.
    totals = ops.matmul(within_documents(matrices(decays, after, places)[:, None], leaving), sums)
    numbers = (np if isinstance(groups, int) else ops).arange(groups)[None]
    carried = within_documents(matrices(decays * group, numbers, numbers), across)
    carried = ops.matmul(carried, ops.reshape(totals, (-1, groups, width)))
    sources = np.concatenate([np.repeat(places, len(direction), axis=0), before], axis=1)
    within = within_documents(matrices(decays, places, sources)[:, None], entering)
    sums = ops.matmul(within, ops.concatenate([sums, carried[:, :, None]], axis=2))
    return ops.reshape(sums, (-1, groups * group, width))


def _come_to(borders):
    """Return the document of the sum that comes to each place: of the place before it, on the second side after it.

    Args:
        borders: (batch * heads, sides, places); where there is no such place the result is 0.
    """
    size, sides, count = ops.shape(borders)
    padded = ops.pad(borders, [[0, 0], [0, 0], [1, 1]])
    moved = [ops.slice(padded, (0, side, 2 * side), (size, 1, count)) for side in range(sides)]
    return ops.concatenate(moved, axis=1)


def _documents_of_groups(borders, groups, group):
    """Return the documents come to, and those of the sums, for what leaves groups, goes across, and lies within them.

    Args:
        borders: (batch * heads, sides, groups * group), the document that the sum of each chunk is of.
        groups, group: their number, and the chunks in one.
    """
    size, sides = ops.shape(borders)[:2]
    inside, reached = (ops.reshape(x, (size, sides, groups, group)) for x in (borders, _come_to(borders)))
    # A group is left by its last chunk or, on the second side, by its first.
    leaving = [
        ops.slice(inside, (0, side, 0, place), (size, 1, groups, 1))
        for side, place in zip(range(sides), (group - 1, 0), strict=False)
    ]
    leaving = ops.concatenate(leaving, axis=1)
    across = _come_to(leaving[..., 0]), leaving[..., 0]
    return (leaving, inside), across, (reached, ops.concatenate([inside, across[0][..., None]], axis=-1))
