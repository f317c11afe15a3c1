"""The grammar of descriptions: phrases are found in captions, replaced and drawn, and agreed on for a person."""

import numpy as np
import pytest

from fastreid.config import ConfigError
from fastreid.methods.diffusion_reid.grammar import Grammar
from tests.methods.diffusion_reid.conftest import GRAMMAR


@pytest.fixture
def grammar(tmp_path):
    (tmp_path / "g.yml").write_text(GRAMMAR)
    return Grammar.read(tmp_path / "g.yml")


def test_the_longest_phrase_counts(grammar):
    caption = "A man in A Dark Blue Jacket and blue trousers with a backpack"
    assert grammar.attributes(caption) == {
        "upper": "a dark blue jacket", "lower": "blue trousers", "carrying": "a backpack",
    }  # fmt: skip
    assert grammar.attributes("reddish blue trousersuit") == {}


def test_no_part_of_a_caption_counts_for_two_slots():
    words = {"colour": ("red", "blue")}
    slots = {"upper": ("{colour} top", "red"), "lower": ("{colour} jeans", "red top")}
    grammar = Grammar(slots=slots, words=words, prefix="p", order=("upper", "lower"))
    assert grammar.attributes("red top") == {"upper": "red top"}
    assert grammar.attributes("red top, blue jeans") == {"upper": "red top", "lower": "blue jeans"}


def test_swapping_a_phrase_leaves_the_rest(grammar):
    caption = "A woman in a red top, walking fast"
    assert grammar.swapped(caption, "action", "running") == "A woman in a red top, running fast"
    assert grammar.swapped(caption, "carrying", "a handbag") is None


def test_letters_with_a_longer_small_form_move_nothing(grammar):
    caption = "\u0130\u0130\u0130 a red top, blue jeans"
    upper = grammar.attributes(caption)["upper"]
    assert grammar.swapped(caption, "upper", "a GREEN one") == caption.replace(upper, "a GREEN one")


def test_the_phrase_of_most_captions_counts_for_the_person_only(grammar):
    captions = ["a red top, walking", "a red top, standing", "a green top, blue trousers, standing", "nothing"]
    shared = grammar.majority(captions)
    assert shared == {"upper": "a red top", "lower": "blue trousers"}  # and no action
    merged = [grammar.merged(caption, shared) for caption in captions]
    assert merged[2] == "a red top, blue trousers, standing"
    assert merged[0] == "a red top, walking, blue trousers"
    assert merged[3] == "nothing, a red top, blue trousers"


def test_draws_differ_and_are_those_of_the_seed(grammar):
    drawn = grammar.draw(40, seed=3)
    assert drawn == grammar.draw(40, seed=3) != grammar.draw(40, seed=4)
    assert len({tuple(attributes.values()) for attributes in drawn}) == 40
    for attributes in drawn:
        found = grammar.attributes(grammar.text(attributes))
        assert found == {slot: phrase for slot, phrase in attributes.items() if phrase}


def test_a_small_grammar_says_that_it_is_too_small():
    grammar = Grammar(slots={"upper": ("a top", "a coat")}, words={}, prefix="p", order=("upper",))
    with pytest.raises(ConfigError, match="only about 2 descriptions, 3 are needed"):
        grammar.draw(3, 0)


def test_another_phrase_is_another_one(grammar):
    rng = np.random.default_rng(0)
    found = {grammar.other_phrase("carrying", "a backpack", rng) for _ in range(20)}
    assert found == {"a handbag"}
    only = Grammar(slots={"upper": ("a top", "")}, words={}, prefix="p", order=("upper",))
    assert only.other_phrase("upper", "a top", rng) == "a top"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("identity: [upper, lower]", "identity: [uper]", "identity: unknown slot 'uper'; did you mean 'upper'"),
        (
            "{colour} trousers",
            "{color} trousers",
            "the slot lower: unknown list of words 'color'; did you mean 'colour'",
        ),
        ("swaps:", "swap:", "unknown key 'swap'; did you mean 'swaps'"),
        ("prefix: a photo of a person\n", "", "it lacks prefix"),
        ("order: [upper, lower, carrying, action]", "order: [upper]", "order lacks lower, carrying, action"),
        ("[walking, standing, running]", "[walking, walking]", "slots.action has 'walking' twice"),
        ("[walking, standing, running]", "[]", "slots.action is empty: name at least one text"),
        ("[red, dark blue, blue, green, white]", "[]", "words.colour is empty"),
        ("[walking, standing, running]", "[yes, no]", "slots.action must be a list of texts.*quote words such as yes"),
        ("[walking, standing, running]", '[""]', "the slot action has no phrase"),
        ("words:", "words: [", "cannot be read"),
        ("words:", "words: {colour: [red]}\nwords:", "words stands in it twice"),
        (GRAMMAR, "- 1", "must hold KEY: VALUE"),
        (GRAMMAR, "", "it lacks slots, prefix"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, before, after, said):
    assert before in GRAMMAR
    (tmp_path / "g.yml").write_text(GRAMMAR.replace(before, after))
    with pytest.raises(ConfigError, match=said) as caught:
        Grammar.read(tmp_path / "g.yml")
    assert "g.yml" in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"the grammar cannot be read: no config file .*gone\.yml"):
        Grammar.read(tmp_path / "gone.yml")
