"""ListOps of the Long Range Arena: nested lists of digits under MIN, MAX, MED and SUM_MOD, and the digit they come to.

A document is bytes, one for each token of the published task: `<` MIN, `>` MAX, `=` MED, `+` SUM_MOD open a list, `.`
closes it, and digits are themselves: `>3<52.4.` is the published `[MAX 3 [MIN 5 2 ] 4 ]`, 5 tokens and 2 ends, and 4.
"""

import numpy as np

OPERATORS, CLOSE = b"<>=+", b"."[0]
# The published probability of a list instead of a digit, wherever one may stand.
LIST = 0.25
DRAWS = 2**20


def generate(count: int, seed: int, shortest=500, longest=2000, depth=10, arguments=10) -> tuple[list, np.ndarray]:
    """Draw different documents of more than `shortest` and fewer than `longest` tokens, as published.

    A tree that grows too long is drawn anew. Depth and number of arguments are the largest that there are.

    Returns:
        The documents, uint8, and what they come to, int32.
    """
    draws, documents, values = _Draws(seed), {}, []
    while len(documents) < count:
        found = _tree(draws, longest, depth, arguments)
        if found is None or len(found[0]) <= shortest or found[0] in documents:
            continue
        documents[found[0]] = None
        values.append(found[1])
    return [np.frombuffer(document, "uint8") for document in documents], np.array(values, "int32")


class _Draws:
    """Uniform numbers below 1, drawn many at a time: one call of numpy for each would take most of the time."""

    def __init__(self, seed: int):
        self._random = np.random.default_rng([seed, 1])
        self._left = iter(())

    def __call__(self) -> float:
        """Return the next one."""
        for number in self._left:
            return number
        self._left = iter(self._random.random(DRAWS).tolist())
        return next(self._left)


def _tree(draw: _Draws, longest: int, depth: int, arguments: int) -> tuple[bytes, int] | None:
    """Draw one tree: its bytes and its value; None if it grows to `longest` tokens."""
    text = bytearray()
    # For each open list its operator, how many arguments are still to come, and the values of those that came.
    open_lists = []
    while True:
        if len(open_lists) < depth - 1 and draw() <= LIST:
            operator = OPERATORS[int(draw() * 4)]
            text.append(operator)
            open_lists.append([operator, 2 + int(draw() * (arguments - 1)), []])
            continue
        value = int(draw() * 10)
        text.append(48 + value)
        while open_lists:
            operator, left, values = open_lists[-1]
            values.append(value)
            if left > 1:
                open_lists[-1][1] = left - 1
                break
            text.append(CLOSE)
            value = _apply(operator, values)
            open_lists.pop()
        if len(text) + len(open_lists) >= longest:
            return None
        if not open_lists:
            return bytes(text), value


def _apply(operator: int, values: list[int]) -> int:
    if operator == OPERATORS[0]:
        return min(values)
    if operator == OPERATORS[1]:
        return max(values)
    if operator == OPERATORS[3]:
        return sum(values) % 10
    ordered, half = sorted(values), len(values) // 2
    # Of an even number of values the mean of the middle two, rounded down, as published.
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) // 2
