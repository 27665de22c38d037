"""Which short pieces of text share a row, so that little of it is padding."""

import bisect

import numpy as np


def pack(lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pack pieces into rows, whole: best fit, longest first.

    How many pieces there are of each length decides it, as in Krell et al. (arXiv 2107.02027): rows of the same lengths
    are made together, so that the time grows with `size` squared at most, and with the pieces only as they are dealt.

    Args:
        lengths: Of each piece, from 1 to `size`.
        size: Of a row.

    Returns:
        The numbers of the pieces, row after row, ascending within a row; and where each row starts among them, and at
        last their number. Rows come in the order of their first pieces.
    """
    if not len(lengths):
        return np.zeros(0, "uint32"), np.zeros(1, "int64")
    by_length = np.argsort(lengths, kind="stable")
    counts = np.bincount(lengths, minlength=size + 1)
    # Of each length the pieces that are left are the last before here.
    left = np.cumsum(counts)
    dtype = "uint32" if len(lengths) < 2**32 else "int64"
    rows = []
    for count, contents in _patterns(counts, size):
        members = np.empty((count, len(contents)), dtype)
        for column, length in enumerate(contents):
            left[length] -= count
            members[:, column] = by_length[left[length] : left[length] + count]
        rows.append(np.sort(members, axis=1))
    first = np.argsort(np.concatenate([members[:, 0] for members in rows]))
    widths = np.concatenate([np.full(len(members), members.shape[1]) for members in rows])
    starts = np.concatenate([[0], np.cumsum(widths[first])])
    pieces = np.empty(len(lengths), dtype)
    place = np.empty(len(first), "int64")
    place[first] = starts[:-1]
    done = 0
    for members in rows:
        pieces[place[done : done + len(members), np.newaxis] + np.arange(members.shape[1])] = members
        done += len(members)
    return pieces, starts


def _patterns(counts: np.ndarray, size: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return how many rows have which lengths.

    Args:
        counts: How many pieces there are of each length, from 0 to `size`.
        size: Of a row.
    """
    # By the room that is left, the kinds of rows with it: how many there are, and their lengths. All rooms, ascending.
    kinds, rooms = {}, []

    def add(room: int, rows: int, contents: tuple[int, ...]) -> None:
        if room not in kinds:
            kinds[room] = []
            bisect.insort(rooms, room)
        kinds[room].append((rows, contents))

    for length in range(size, 0, -1):
        count = int(counts[length])
        while count:
            place = bisect.bisect_left(rooms, length)
            if place == len(rooms):
                most = size // length
                whole, rest = divmod(count, most)
                if whole:
                    add(size - most * length, whole, (length,) * most)
                if rest:
                    add(size - rest * length, 1, (length,) * rest)
                break
            # Those with the least room that it fits into; as many in each row as fit, or as it takes.
            room = rooms[place]
            rows, contents = kinds[room].pop()
            if not kinds[room]:
                del kinds[room], rooms[place]
            each = min(room // length, -(-count // rows))
            filled = min(rows, count // each)
            if filled < rows:
                add(room, rows - filled, contents)
            add(room - each * length, filled, contents + (length,) * each)
            count -= filled * each
    return [kind for room in rooms for kind in kinds[room]]
