"""That tests/mutations.py, which runs apart, is up to date."""

import pytest
from mutations import MUTATIONS, ROOT


@pytest.mark.parametrize(("file", "before", "after", "test"), MUTATIONS)
def test_the_line_to_break_is_there(file, before, after, test):
    assert (ROOT / file).read_text().count(before) == 1
    assert after != before
    assert (ROOT / "tests" / test).exists()
