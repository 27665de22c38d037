"""Flat arrays, in memory and on disk, against lists: what is copied, and which blocks are read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from krpe_tf.data import Ragged, store
from krpe_tf.data.store import ArrayWriter, StoredArray

BLOCK = 32


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "BLOCK_BYTES", BLOCK)
        yield


def write(path, pieces, dtype):
    writer = ArrayWriter(path, dtype)
    for piece in pieces:
        writer.write(np.array(piece, "int64"))
    return writer.finish()


@pytest.mark.parametrize("dtype", store.DTYPES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(pieces=st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=60), max_size=8))
def test_what_is_written_is_read(tmp_path_factory, dtype, pieces):
    path = tmp_path_factory.mktemp("array") / "a.bin"
    files = write(path, pieces, dtype)
    values = [value for piece in pieces for value in piece]
    assert np.fromfile(path, np.dtype(dtype).newbyteorder("<")).tolist() == values
    array = StoredArray(path, dtype)
    assert len(array) == len(values)
    assert array.whole().tolist() == values
    assert files[""] == {"bytes": path.stat().st_size, "sha256": store.digest(path)}
    checksums = path.with_name("a.bin.crc32")
    assert files[".crc32"] == {"bytes": checksums.stat().st_size, "sha256": store.digest(checksums)}


def test_values_that_do_not_fit_are_refused(tmp_path):
    writer = ArrayWriter(tmp_path / "a.bin", "uint16")
    for values in ([1, 2**16], [-1]):
        with pytest.raises(ValueError, match="must fit uint16"):
            writer.write(np.array(values))
    writer.close()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=9),
    data=st.data(),
    width=st.integers(1, 50),
)
def test_ranges_fill_rows_and_damage_is_named_where_it_is_touched(tmp_path_factory, lengths, data, width):
    path = tmp_path_factory.mktemp("ragged") / "a.bin"
    random = np.random.default_rng(sum(lengths))
    documents = [random.integers(0, 2**16, length) for length in lengths]
    write(path, documents, "uint16")
    memory = Ragged.join(documents)
    chosen = data.draw(st.lists(st.sampled_from(range(len(lengths))), max_size=6))
    starts = memory.starts[chosen]
    counts = np.minimum(memory.lengths[chosen], width)
    expected = [[*documents[index][:width], *[-7] * (width - len(documents[index]))] for index in chosen]
    shape = (len(chosen) + 2, width)
    expected += [[-7] * width] * 2
    disk = Ragged(StoredArray(path, "uint16"), memory.starts)
    for ragged in (memory, disk):
        rows = ragged.padded(starts, counts, shape, -7)
        assert rows.dtype == np.int32
        assert rows.tolist() == [list(map(int, row)) for row in expected]
        assert [ragged[index].tolist() for index in range(len(lengths))] == [each.tolist() for each in documents]
    if not sum(lengths):
        return
    place = data.draw(st.integers(0, sum(lengths) - 1))
    content = bytearray(path.read_bytes())
    content[2 * place] ^= 1
    path.write_bytes(content)
    touched = {
        block
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True)
        for block in range(2 * start // BLOCK, (2 * (start + count) - 1) // BLOCK + 1)
        if count
    }
    disk = Ragged(StoredArray(path, "uint16"), memory.starts)
    if 2 * place // BLOCK in touched:
        with pytest.raises(ValueError, match=rf"in block {2 * place // BLOCK}\. Received: .*a\.bin"):
            disk.padded(starts, counts, shape, -7)
    elif (counts > 0).all():
        assert disk.padded(starts, counts, shape, -7).tolist() == [list(map(int, row)) for row in expected]
