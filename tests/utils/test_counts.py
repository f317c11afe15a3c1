import numpy as np
import pytest
import torch

from fastreid.utils.counts import thread_count, whole_number, yes_or_no
from fastreid.utils.errors import ArgumentError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)])
def test_whole_numbers_of_any_type_become_ints(value):
    assert whole_number(value, "k", 1) == 3 and type(whole_number(value, "k", 1)) is int


@pytest.mark.parametrize("value", [2.5, 2.0, "5", None, True, np.bool_(True), torch.tensor(True), [3], np.float32(2)])
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(ArgumentError, match="k must be a whole number"):
        whole_number(value, "k", 1)


def test_ranges_are_in_the_message():
    with pytest.raises(ArgumentError, match="k must be at least 1, got 0"):
        whole_number(0, "k", 1)
    with pytest.raises(ArgumentError, match="k must be from 1 to 4, got 5"):
        whole_number(5, "k", 1, 4)


def test_threads():
    assert thread_count(None) == thread_count(0) == torch.get_num_threads()
    assert thread_count(3) == 3
    for wrong in (-1, 4097, 2**31, 2**64, 1.0, "2", True):
        with pytest.raises(ArgumentError, match="num_threads"):
            thread_count(wrong)


def test_yes_and_no_are_no_text():
    assert yes_or_no(np.bool_(True), "roc") is True and yes_or_no(False, "roc") is False
    for value in ("False", 1, None):
        with pytest.raises(ArgumentError, match="roc must be True or False, got "):
            yes_or_no(value, "roc")
