"""Near matches of mistyped names."""

import pytest

from fastreid.utils.suggest import explain_choice, near_matches

OPTIONS = ["SGD", "Adam", "AdamW", "CosineAnnealingLR", "MultiStepLR"]


@pytest.mark.parametrize(
    ("word", "first"),
    [("sgd", "SGD"), ("adam", "Adam"), ("Cosine", "CosineAnnealingLR"), ("MultistepLr", "MultiStepLR")],
)
def test_best_match_first_whatever_the_case(word, first):
    assert near_matches(word, OPTIONS)[0] == first


def test_nothing_near():
    assert near_matches("zzz", OPTIONS) == []
    assert explain_choice("SOLVER.OPT", "zzz", ["SGD"]) == "unknown SOLVER.OPT 'zzz'. Legal: SGD"


def test_limit():
    assert len(near_matches("aaaa", ["aaab", "aaac", "aaad", "aaae"], limit=2)) == 2


def test_no_options_at_all():
    assert explain_choice("head", "x", []) == "unknown head 'x'. Legal: (none)"
