"""Guidance modes against their formulas."""

import pytest
import torch

from fastreid.modeling.diffusion import OptionError
from fastreid.modeling.diffusion.guidance import GUIDANCE, NullCondition, condition_of, get_guidance, keep_control
from fastreid.structures import Condition, ControlMaps

CONDITION = Condition(torch.ones(1, 2, 3), ControlMaps((torch.ones(1, 1, 2, 2),), (torch.ones(1, 1, 2, 2),)))
NULL_TOKENS = torch.full((1, 2, 3), -1.0)
# A made-up network: 1 for the tokens, 10 for encoder control, 100 for decoder control.
U, D, T, C = 0.0, 110.0, 1.0, 111.0


def predict(condition):
    has_tokens = bool((condition.tokens == 1).all())
    return torch.tensor(
        has_tokens + 10.0 * bool(condition.control.down[0].any()) + 100.0 * bool(condition.control.up[0].any())
    )


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("full", C),
        ("uc_full", U + 3 * (C - U)),
        ("down_full", D + 3 * (C - D)),
        ("uc_down_full", U + 5 * (D - U) + 3 * (C - D)),
        ("inverse", T + 5 * (C - T)),
    ],
)
def test_modes(mode, expected):
    guidance, null = get_guidance(mode), NullCondition(NULL_TOKENS, drops_down=True, drops_up=True)
    predictions = [predict(condition_of(branch, CONDITION, null)) for branch in guidance.branches]
    assert guidance.combine(predictions, (3.0, 5.0)).item() == pytest.approx(expected)


def test_the_unconditional_branch_keeps_the_control_that_training_kept():
    unconditional = GUIDANCE["uc_full"].branches[0]
    kept = condition_of(unconditional, CONDITION, NullCondition(NULL_TOKENS, drops_down=False, drops_up=True))
    assert predict(kept).item() == 10.0


def test_an_unknown_mode_is_explained():
    with pytest.raises(OptionError, match="unknown guidance 'uc_ful'; did you mean 'uc_full'"):
        get_guidance("uc_ful")


@pytest.mark.parametrize("mode", GUIDANCE)
def test_a_condition_without_control_has_none_in_any_branch(mode):
    plain, null = Condition(CONDITION.tokens), NullCondition(NULL_TOKENS)
    for branch in get_guidance(mode).branches:
        seen = condition_of(branch, plain, null)
        assert seen.control is None and torch.equal(seen.tokens, plain.tokens if branch.tokens else NULL_TOKENS)


def test_only_guidance_with_null_tokens_needs_a_null_condition():
    assert {name for name, guidance in GUIDANCE.items() if not guidance.needs_null} == {"full", "inverse"}
    (full,) = get_guidance("full").branches
    assert torch.equal(condition_of(full, CONDITION, None).tokens, CONDITION.tokens)
    with pytest.raises(OptionError, match="give a null condition"):
        condition_of(get_guidance("uc_full").branches[0], CONDITION, None)


@pytest.mark.parametrize("channels", [2, 3])  # as many as rows, which other shapes would multiply silently, and more
def test_rows_lose_their_maps(channels):
    maps = torch.arange(1.0, 2 * channels * 4 + 1).view(2, channels, 2, 2)
    control = ControlMaps((maps, maps[:, :, 0, 0]), (maps,), maps[..., :1, :1])
    kept = torch.tensor([0.0, 1.0]).view(2, 1, 1)
    left = keep_control(control, kept, down=True, up=False)
    for before, after in zip(control.down, left.down, strict=True):
        assert not after[0].any() and after[1].equal(before[1])
    assert left.up[0].equal(maps) and left.mid.equal(control.mid)
    left = keep_control(control, kept, down=False, up=True)
    assert left.down[0].equal(maps) and left.down[1].equal(control.down[1])
    for before, after in ((maps, left.up[0]), (control.mid, left.mid)):
        assert not after[0].any() and after[1].equal(before[1])
    assert keep_control(None, kept, down=True, up=True) is None
