import argparse

import pytest

from ecgssl_jax.number_list import numbers


@pytest.mark.parametrize(
    ("text", "found"),
    [("9", (9,)), ("1-3", (1, 2, 3)), ("1-3, 7", (1, 2, 3, 7)), ("0,2,1", (0, 2, 1))],
)
def test_ranges_and_numbers_are_listed_in_their_order(text, found):
    assert numbers(text) == found


@pytest.mark.parametrize("text", ["x", "1-", "-3", "1,,x", "", " , ", "3-1"])
def test_what_lists_no_number_is_refused(text):
    with pytest.raises(
        argparse.ArgumentTypeError, match=r"no list of numbers|no number"
    ):
        numbers(text)
