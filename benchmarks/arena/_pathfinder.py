"""Pathfinder at 32 x 32: do the two dots end one dashed path, or lie on two?

After the idea of the generator behind the Long Range Arena (openreview.net/forum?id=HJxrVA4FDS), in the setting of its
task: two long snakes of 14 dashes start 7 pixels apart in the middle and wander outwards; one dot marks the start of
one, another the end of the same one or of the other; 5 snakes of 4 dashes distract. Here all pictures of a batch grow
at once, each dash a stamp of one of 32 directions, and there is room enough for the picture alone to decide: gaps
within a snake are one dark pixel wide, and two at least part it from all others and their dots.
"""

import numpy as np

SIZE = 32
CONTOUR = 14
DISTRACTOR = CONTOUR // 3
DISTRACTORS = 20 // DISTRACTOR
SEED_DISTANCE = 7
DASH, DOT = 190, 255
DIRECTIONS = 32
# From the first pixel of a dash to its last, and from there to the first of the next.
LENGTH, GAP = 1, 2
# Around a picture, so that stamps and the room around them stay inside. No dash lies on a picture's outermost pixels.
PAD = 12
WIDE = SIZE + 2 * PAD
STAMP = 5
# How many continuations of a snake, and places for a new one, are tried at once.
TRIALS, PLACES = 8, 48
# Before a batch gives up on the pictures that are not complete; a snake without room goes back by a few dashes.
ITERATIONS, BACK = 160, 9

_ANGLES = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
UNITS = np.stack([np.sin(_ANGLES), np.cos(_ANGLES)], axis=1)
# Where a dash ends, relative to where it begins.
ENDS = np.round(LENGTH * UNITS).astype(int)


def _stamps() -> np.ndarray:
    """Return a dash in each direction, uint8 `(directions, STAMP, STAMP)`: it begins in the middle."""
    pixels = np.stack(np.mgrid[:STAMP, :STAMP], axis=-1) - STAMP // 2
    along = np.clip(np.einsum("yxi,di->dyx", pixels, UNITS), 0, LENGTH)
    distance = np.linalg.norm(pixels - along[..., None] * UNITS[:, None, None], axis=-1)
    shade = np.clip(1.25 - distance, 0, 1)
    return np.where(shade > 0.5, np.round(DASH * shade), 0).astype("uint8")


def _grown(shape: np.ndarray, by: int) -> np.ndarray:
    """Return which pixels lie at most `by` from a bright one in both axes; pictures grow by as much on each side."""
    grown = np.pad(shape > 0, [(0, 0)] * (shape.ndim - 2) + [(by, by)] * 2)
    for axis in (-2, -1):
        grown = np.any([np.roll(grown, shift, axis) for shift in range(-by, by + 1)], axis=0)
    return grown


def _continuations() -> tuple[np.ndarray, np.ndarray]:
    """Return how a dash may follow another, by both directions.

    Returns:
        Where it begins relative to the other, int `(directions, directions, 2)`; and with what probability, the
        published squared cosine of a turn of up to 90 degrees, 0 where the gap would not be one dark pixel. Summed up.
    """
    starts = np.round(LENGTH * UNITS[:, None] + GAP * UNITS).astype(int)
    weights = np.maximum(UNITS @ UNITS.T, 0) ** 2
    for first, second in np.argwhere(weights > 1e-9):
        here, there = np.argwhere(STAMPS[first] > 0), np.argwhere(STAMPS[second] > 0) + starts[first, second]
        if np.abs(here[:, None] - there).max(axis=-1).min() != 2:
            weights[first, second] = 0
    return starts, np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)


STAMPS = _stamps()
ROOMS = _grown(STAMPS, 2).astype("uint8")
STARTS, PROBABILITIES = _continuations()
BORDER = np.ones((WIDE, WIDE), "uint8")
BORDER[PAD + 1 : -PAD - 1, PAD + 1 : -PAD - 1] = 0


def generate(count: int, seed: int, batch: int = 2048) -> tuple[np.ndarray, np.ndarray]:
    """Draw pictures, half of them connected on average.

    Returns:
        uint8 `(count, 32, 32)`, and 1 where the dots end one path, int32 `(count,)`.
    """
    random = np.random.default_rng([seed, 2])
    made, found = [], 0
    while found < count:
        paths, directions = _two_snakes(random, batch)
        made.append(_draw(random, paths, directions))
        found += len(made[-1][1])
    pictures, labels = (np.concatenate(parts)[:count] for parts in zip(*made, strict=True))
    return pictures, labels


def _two_snakes(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Let two snakes grow by turns in each of `count` pictures, as many as become complete.

    Returns:
        Where each dash begins, int `(pictures, snake, dash, 2)`, and its direction.
    """
    places = np.zeros((count, 2, CONTOUR, 2), int)
    directions = np.zeros((count, 2, CONTOUR), int)
    # How often each pixel is forbidden to a snake's next dash: border, and the room around each dash but its own last.
    taken = np.repeat(BORDER[None], 2 * count, axis=0).reshape(count, 2, WIDE, WIDE)
    angle = random.uniform(0, 2 * np.pi, count)
    places[:, 0, 0] = random.integers(WIDE // 2 - 4, WIDE // 2 + 4, (count, 2))
    apart = SEED_DISTANCE * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    places[:, 1, 0] = places[:, 0, 0] + np.round(apart).astype(int)
    directions[:, :, 0] = random.integers(0, DIRECTIONS, (count, 2))
    for snake in range(2):
        _add(taken[:, 1 - snake], ROOMS, places[:, snake, 0], directions[:, snake, 0])
    grown = np.full(count, 2)  # Dashes of both snakes that are there.
    for _ in range(ITERATIONS):
        rows = np.flatnonzero(grown < 2 * CONTOUR)
        snake, dash = grown[rows] % 2, grown[rows] // 2
        before = places[rows, snake, dash - 1], directions[rows, snake, dash - 1]
        place, direction, found = _continue(random, taken[rows, snake], *before)
        places[rows, snake, dash], directions[rows, snake, dash] = place, direction
        _occupy(taken, places, directions, rows[found], grown[rows[found]], 1)
        grown[rows[found]] += 1
        stuck = rows[~found]
        back = random.integers(1, BACK, len(stuck))
        for step in range(1, BACK):
            undone = stuck[(back >= step) & (grown[stuck] > 2)]
            grown[undone] -= 1
            _occupy(taken, places, directions, undone, grown[undone], -1)
    complete = grown == 2 * CONTOUR
    return places[complete], directions[complete]


def _occupy(taken, places, directions, rows, index, by: int) -> None:
    """Count the room of dash number `index` of each of these pictures, and of its snake's one before, in or out."""
    snake, dash = index % 2, index // 2
    for whose, which in ((1 - snake, dash), (snake, dash - 1)):
        place, direction = places[rows, snake, which], directions[rows, snake, which]
        windows, corner = _windows(taken, ROOMS.shape[1]), place - ROOMS.shape[1] // 2
        at = rows, whose, corner[:, 0], corner[:, 1]
        windows[at] += (by * ROOMS[direction].astype("int8")).astype("uint8")


def _windows(images: np.ndarray, size: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(-2, -1), writeable=True)


def _add(images: np.ndarray, stamps: np.ndarray, places: np.ndarray, directions: np.ndarray, chosen=slice(None)):
    """Put the stamp of a direction at a place of each chosen picture, over what is there."""
    size = stamps.shape[-1]
    rows, corner = np.arange(len(images))[chosen], (places - size // 2)[chosen]
    windows, at = _windows(images, size), (rows, corner[:, 0], corner[:, 1])
    windows[at] = np.maximum(windows[at], stamps[directions[chosen]])


def _free(taken: np.ndarray, places: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return which of several dashes of each picture, places `(pictures, trials, 2)`, meet nothing that is taken."""
    corner = places - STAMP // 2
    seen = _windows(taken, STAMP)[np.arange(len(taken))[:, None], corner[..., 0], corner[..., 1]]
    return ~((seen > 0) & (STAMPS[directions] > 0)).any(axis=(-2, -1))


def _continue(random: np.random.Generator, taken: np.ndarray, places: np.ndarray, directions: np.ndarray) -> tuple:
    """Draw the next dash of a snake in each picture: where it begins, its direction, and whether one was free."""
    draws = random.random((len(taken), TRIALS, 1))
    turned = np.minimum((PROBABILITIES[directions][:, None] < draws).sum(axis=-1), DIRECTIONS - 1)
    begins = places[:, None] + STARTS[directions[:, None], turned]
    free = _free(taken, begins, turned)
    first, rows = free.argmax(axis=1), np.arange(len(taken))
    return begins[rows, first], turned[rows, first], free.any(axis=1)


def _draw(random: np.random.Generator, places: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pictures of snakes whose dots keep apart, and the answers, drawn here."""
    images = np.zeros((2, len(places), WIDE, WIDE), "uint8")
    for snake, dash in np.ndindex(2, CONTOUR):
        _add(images[snake], STAMPS, places[:, snake, dash], directions[:, snake, dash])
    tips = np.stack([places[:, :, 0], places[:, :, -1] + ENDS[directions[:, :, -1]]], axis=2)
    kept = np.flatnonzero(_dots_are_clear(images, tips))
    image, tips, rows = images[:, kept].max(axis=0), tips[kept], np.arange(len(kept))
    labels, snake = random.integers(0, 2, (2, len(kept)))
    for place in (tips[rows, snake, 0], tips[rows, np.where(labels, snake, 1 - snake), 1]):
        _windows(image, 3)[rows, place[:, 0] - 1, place[:, 1] - 1] = DOT
    _distract(random, image)
    return image[:, PAD:-PAD, PAD:-PAD], labels.astype("int32")


def _dots_are_clear(images: np.ndarray, tips: np.ndarray) -> np.ndarray:
    """Return in which pictures dots would be parted from the other snake and its dots.

    Dots at all four tips, shown or not: so the answer, drawn later, does not depend on which pictures are dropped.
    """
    rows = np.arange(len(tips))
    starts, ends = tips[:, :, 0], tips[:, :, 1]
    clear = (np.abs(starts[:, :, None] - ends[:, None]).max(axis=-1) > 4).all(axis=(1, 2))
    for snake, end in np.ndindex(2, 2):
        corner = tips[:, snake, end] - 3
        clear &= ~_windows(images[1 - snake], 7)[rows, corner[:, 0], corner[:, 1]].any(axis=(1, 2))
    return clear


def _distract(random: np.random.Generator, image: np.ndarray) -> None:
    """Add short snakes where there is room for them."""
    count = len(image)
    rows, taken = np.arange(count), np.maximum(_grown(image, 2)[:, 2:-2, 2:-2], BORDER)
    for _ in range(DISTRACTORS):
        places = random.integers(PAD + 1, PAD + SIZE - 1, (count, PLACES, 2))
        directions = random.integers(0, DIRECTIONS, (count, PLACES))
        free = _free(taken, places, directions)
        first, whole, mine = free.argmax(axis=1), free.any(axis=1), taken.copy()
        dashes = [(places[rows, first], directions[rows, first])]
        for _ in range(DISTRACTOR - 1):
            *following, found = _continue(random, mine, *dashes[-1])
            whole &= found
            _add(mine, ROOMS, *dashes[-1], whole)
            dashes.append(following)
        for dash in dashes:
            _add(image, STAMPS, *dash, whole)
            _add(taken, ROOMS, *dash, whole)
