"""Plans: a picture's prompt and seed depend on its person and number alone, and clothes are rarely replaced."""

from collections import Counter

import pytest

from fastreid.generation.people import Identity
from fastreid.generation.plans import Swaps, plan_of, reference_plans, seed_of
from fastreid.methods.diffusion_reid.grammar import Grammar
from tests.methods.diffusion_reid.conftest import GRAMMAR

CAPTIONS = ["a red top, a backpack, walking", "a red top, a skirt, standing"]


@pytest.fixture
def grammar(tmp_path):
    (tmp_path / "g.yml").write_text(GRAMMAR)
    return Grammar.read(tmp_path / "g.yml")


@pytest.fixture
def plan(grammar):
    def make(number, *, share=0.5, identity_share=0.1, seed=0, person="7", captions=CAPTIONS):
        who = Identity(3, "Market1501", person, ())
        return plan_of(
            who, number, captions, grammar=grammar, template="a photo of a <id> person, {caption}", has_words=True,
            swaps=Swaps(share, identity_share), seed=seed,
        )  # fmt: skip

    return make


def test_a_plan_is_the_same_whatever_else_is_written(plan):
    assert [plan(number) for number in (5, 3)] == [plan(number) for number in (3, 5)][::-1]
    seeds = {plan(number, seed=seed, person=person).seed for number in range(9) for seed in (0, 1) for person in "78"}
    assert len(seeds) == 36 and all(0 <= seed < 2**63 for seed in seeds)
    assert plan(0).facts["source"] == "Market1501" and plan(0).key == (3, 0)


def test_own_captions_and_one_replaced_phrase(plan, grammar):
    found = [plan(number) for number in range(400)]
    own = [one for one in found if not one.facts["swapped"]]
    assert {one.facts["caption"] for one in own} == set(CAPTIONS)
    assert 0.4 < len(own) / 400 < 0.65
    for one in found:
        if slot := one.facts["swapped"]:
            before = [grammar.attributes(caption) for caption in CAPTIONS]
            now = grammar.attributes(one.facts["caption"])
            assert any({name for name in now if now[name] != old.get(name)} == {slot} for old in before)
            assert slot in grammar.swaps
        assert one.prompt == f"a photo of a <id> person, {one.facts['caption']}"


@pytest.mark.parametrize("limit", [0.0, 0.1, 0.25])
def test_clothes_are_replaced_in_a_limited_share_of_any_first_pictures(plan, limit):
    swapped = [plan(number, share=1.0, identity_share=limit).facts["swapped"] for number in range(200)]
    for count in range(1, 201):
        assert Counter(swapped[:count])["upper"] <= limit * count
    assert ("upper" in swapped) == (limit > 0)


def test_no_swaps_and_no_phrases(plan):
    assert not any(plan(number, share=0.0).facts["swapped"] for number in range(50))
    empty = plan(0, share=1.0, captions=[])
    assert empty.prompt == "a photo of a <id> person" and empty.facts["swapped"] == ""


def test_the_reference_set(grammar):
    fine = reference_plans(grammar, 20, 0, is_fine_grained=True)
    assert len({one.prompt for one in fine}) == 20 and fine == reference_plans(grammar, 20, 0, is_fine_grained=True)
    assert all(one.prompt.startswith("a photo of a person, ") and "<id>" not in one.prompt for one in fine)
    plain = reference_plans(grammar, 20, 0, is_fine_grained=False)
    assert {one.prompt for one in plain} == {"a photo of a person"} and len({one.seed for one in plain}) == 20


def test_seeds_depend_on_every_fact():
    assert len({seed_of(0, "a", 1), seed_of(0, "a", 11), seed_of(1, "a", 1), seed_of(0, "a1", "")}) == 4
