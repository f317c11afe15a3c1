"""Names as ids: nothing that differs as text is merged."""

import pytest

from fastreid.structures.names import is_canonical, number_names, sorted_positions

LARGEST = 2**63 - 1
# Pairs that int() takes for one number.
ALIKE = [
    ("1_11", "11_1"),
    ("007", "7"),
    ("+1", "1"),
    ("1_1", "11"),
    (" 1", "1"),
    ("1\n", "1"),
    ("٧", "7"),
    ("７", "7"),
    ("-0", "0"),
    ("-01", "-1"),
    ("00", "0"),
]


@pytest.mark.parametrize("pair", ALIKE)
def test_names_that_int_takes_for_one_number_are_two(pair):
    assert len(set(number_names(pair).values())) == 2
    assert len(set(number_names([*pair, "12_3", "123"]).values())) == 4


def test_canonical_numbers_are_their_own_ids():
    assert number_names(["12", "7", "0", str(LARGEST)]) == {"0": 0, "7": 7, "12": 12, str(LARGEST): LARGEST}


@pytest.mark.parametrize("other", ["ann", "07", "-1", "", str(LARGEST + 1), "20240131000000000000000"])
def test_one_name_that_is_no_number_makes_all_of_them_names(other):
    numbers = number_names(["7", "12", other])
    assert numbers == {name: place for place, name in enumerate(sorted(["7", "12", other]))}


def test_junk_is_the_exact_text_only():
    assert number_names(["3", "-1"], junk="-1") == {"3": 3, "-1": -1}
    assert number_names(["3"], junk="-1") == {"3": 3, "-1": -1}
    assert number_names(["-01", "-1", "3"], junk="-1") == {"-01": 0, "3": 1, "-1": -1}
    assert -1 not in number_names(["-1", "-01"]).values()


def test_the_order_and_number_of_occurrences_do_not_matter():
    assert number_names(iter(["b", "a", "b"])) == number_names(["a", "b"]) == {"a": 0, "b": 1}


def test_places_of_numbers_are_those_of_text():
    assert sorted_positions(["10", "9", "10"]) == {"10": 0, "9": 1}


@pytest.mark.parametrize("name", ["0", "7", "10", str(LARGEST)])
def test_canonical(name):
    assert is_canonical(name)


@pytest.mark.parametrize("name", ["", "07", "+7", "-7", "7 ", "1_1", "٧", "1e3", "7.0", str(LARGEST + 1), "9" * 5000])
def test_not_canonical(name):
    assert not is_canonical(name)
