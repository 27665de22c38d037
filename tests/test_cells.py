"""Every route with every bias, order and mask: right at the tolerances of the routes, or refused with one that serves.

`python tests/test_cells.py` writes the table of docs/routes.md, which the tests hold the code to.
"""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from definition import Attention, error, forward_backward, randomize

from krpe_tf import BucketedBias, DecayBias, LearnedBias, LearnedBias2D, toeplitz_attention
from krpe_tf.toeplitz import ROUTES as ALL_ROUTES

ROUTES = ALL_ROUTES[1:]
HEIGHT, WIDTH = 11, 13
N = HEIGHT * WIDTH
BIASES = {
    "`LearnedBias`, short": lambda: LearnedBias(2, 9),
    "`LearnedBias`, all 2n - 1": lambda: LearnedBias(2, N - 1),
    "`BucketedBias`": lambda: BucketedBias(2),
    "`DecayBias`": lambda: DecayBias(2),
    "`LearnedBias2D`": lambda: LearnedBias2D(2, HEIGHT, WIDTH),
    "none": lambda: None,
}
DOCUMENTS = np.stack([np.repeat([3, 1, 2], [5, 90, N - 95]), np.zeros(N, int)]).astype("int32")
ORDERS = {
    "bidirectional": {},
    "causal": {"causal": True},
    "prefix": {"causal": True, "prefix_length": N // 3},
    "cross": {"n_q": N - 20},
    "documents": {"segment_ids": DOCUMENTS},
    "documents, causal": {"segment_ids": DOCUMENTS, "causal": True},
}
DOCUMENT = Path(__file__).parent.parent / "docs" / "routes.md"
HEAD = """# What each route serves

Each cell was computed with and without a mask over keys, on TensorFlow and on JAX, and compared with a float64
definition: values and all gradients within 1e-5 of the largest (fft: 1e-4). Where a route does not serve a request it
raises a `ValueError` that names what does. "documents" are several in a row, told apart by `segment_ids`. Written by
`python tests/test_cells.py`, checked by the tests.

"""


def cell(route, bias, order):
    """ "yes", or what the refusal says to take instead. Raises where the numbers are wrong."""
    bias, options = BIASES[bias](), dict(ORDERS[order])
    bias = bias and randomize(bias)
    weights = bias.weights if bias else []
    rng, n_q = np.random.default_rng(0), options.pop("n_q", N)
    query, key = (np.exp(rng.standard_normal((2, 2, n, 3)) / 2).astype("float32") for n in (n_q, N))
    value, cotangent = (rng.standard_normal((2, 2, n, 2)).astype("float32") for n in (N, n_q))
    outcomes = set()
    for mask in (None, np.arange(N)[None] < np.array([[N], [N - 40]])):

        def attention(*arrays, mask=mask):
            return toeplitz_attention(*arrays, bias, key_mask=mask, route=route, **options)

        try:
            output, of_arrays, of_weights = forward_backward(attention, [query, key, value], cotangent, weights)
        except ValueError as refusal:
            outcomes.add(re.search(r'take ("[^.;]+"|a bias over one axis)', str(refusal))[1].replace('"', ""))
            continue
        expected = Attention(query, key, value, bias, key_mask=mask, **options)
        *right, by_name = expected.gradients(cotangent)
        right += [by_name[weight.name] for weight in weights]
        scale = max(np.abs(x).max() for x in right)
        errors = [error(a, b, scale) for a, b in zip([*of_arrays, *of_weights], right, strict=True)]
        worst = max(error(output, expected.output, np.abs(value).max()), *errors)
        assert worst < (1e-4 if route == "fft" else 1e-5), (route, bias, order, worst)
        outcomes.add("yes")
    (outcome,) = outcomes  # a mask changes nothing about what is served
    return outcome if outcome == "yes" else f"take {outcome}"


def rows():
    """The rows of the table in the document: {(bias, order): cells}."""
    lines = [
        [x.strip() for x in line.strip("| \n").split("|")] for line in DOCUMENT.read_text().splitlines() if "|" in line
    ]
    return {(bias, order): dict(zip(lines[0][2:], cells, strict=True)) for bias, order, *cells in lines[2:]}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bias", BIASES)
def test_the_cells_are_as_documented(bias, order):
    assert {route: cell(route, bias, order) for route in ROUTES} == rows()[bias, order]


def test_the_table_is_whole():
    assert list(rows()) == [(bias, order) for bias in BIASES for order in ORDERS]


if __name__ == "__main__":
    print(keras.backend.backend())
    table = [["bias", "order", *ROUTES], ["---"] * (2 + len(ROUTES))]
    table += [[bias, order, *(cell(route, bias, order) for route in ROUTES)] for bias in BIASES for order in ORDERS]
    DOCUMENT.write_text(HEAD + "\n".join(f"| {' | '.join(row)} |" for row in table) + "\n")
