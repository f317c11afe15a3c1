"""Classifier-free guidance: which branches are predicted, and how predictions are combined.

A branch keeps or drops the tokens of the condition (identity and view) and its view control. The names are those of
the SD-ReID release; they list their branches from weak to full:

    full           c
    uc_full        u + s_full (c - u)
    down_full      d + s_full (c - d)
    uc_down_full   u + s_down (d - u) + s_full (c - d)
    inverse        t + s_down (c - t)

c: tokens and control. u: null tokens, and control dropped or kept as training's null rows had it. d: null tokens,
control kept. t: tokens, control dropped. s_full and s_down are the scales of a `Sampler`. Of `inverse` only the name is
documented; here it swaps the roles of `down_full`: it strengthens the view instead of the person. A condition without
control has none in any branch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastreid.modeling.diffusion.option_error import OptionError
from fastreid.structures import Condition, ControlMaps
from fastreid.utils.suggest import explain_choice

Scales = tuple[float, float]


@dataclass(frozen=True)
class Branch:
    """What a branch keeps of a condition.

    Args:
        tokens: whether it keeps the tokens, or has null tokens.
        control: whether it keeps view control; None for what training's null rows kept.
    """

    tokens: bool
    control: bool | None


FULL, UNCONDITIONAL = Branch(True, True), Branch(False, None)
CONTROL_ONLY, TOKENS_ONLY = Branch(False, True), Branch(True, False)


@dataclass(frozen=True)
class Guidance:
    """Branches to predict, and how the predictions are combined.

    Args:
        branches: in the order of the predictions.
        combine: (predictions, (s_full, s_down)) -> the guided prediction.
    """

    branches: tuple[Branch, ...]
    combine: Callable[[Sequence[Tensor], Scales], Tensor]

    @property
    def needs_null(self) -> bool:
        """Whether some branch has null tokens."""
        return not all(branch.tokens for branch in self.branches)


def _only(predictions: Sequence[Tensor], scales: Scales) -> Tensor:
    return predictions[0]


def _amplify_tokens(predictions: Sequence[Tensor], scales: Scales) -> Tensor:
    weak, full = predictions
    return weak + scales[0] * (full - weak)


def _amplify_control(predictions: Sequence[Tensor], scales: Scales) -> Tensor:
    weak, full = predictions
    return weak + scales[1] * (full - weak)


def _amplify_both(predictions: Sequence[Tensor], scales: Scales) -> Tensor:
    unconditional, control, full = predictions
    return unconditional + scales[1] * (control - unconditional) + scales[0] * (full - control)


GUIDANCE: dict[str, Guidance] = {
    "full": Guidance((FULL,), _only),
    "uc_full": Guidance((UNCONDITIONAL, FULL), _amplify_tokens),
    "down_full": Guidance((CONTROL_ONLY, FULL), _amplify_tokens),
    "uc_down_full": Guidance((UNCONDITIONAL, CONTROL_ONLY, FULL), _amplify_both),
    "inverse": Guidance((TOKENS_ONLY, FULL), _amplify_control),
}


def get_guidance(name: str) -> Guidance:
    """Return the guidance of a name.

    Args:
        name: a key of `GUIDANCE`.

    Raises:
        OptionError: unknown name.
    """
    if name not in GUIDANCE:
        raise OptionError(explain_choice("guidance", name, GUIDANCE), "guidance")
    return GUIDANCE[name]


@dataclass(frozen=True)
class NullCondition:
    """What replaces the condition of an unconditional row.

    Args:
        tokens: null tokens [B, L, D].
        drops_down: whether such rows lose the control maps of the encoder.
        drops_up: whether such rows lose the control maps of the decoder.
    """

    tokens: Tensor
    drops_down: bool = False
    drops_up: bool = False


def condition_of(branch: Branch, condition: Condition, null: NullCondition | None) -> Condition:
    """Return a condition as a branch sees it.

    Args:
        branch: what to keep.
        condition: the full condition.
        null: what replaces it in unconditional rows; None if the branch keeps the tokens.

    Raises:
        OptionError: the branch has null tokens, and there are none.
    """
    if null is None and not branch.tokens:
        raise OptionError('this guidance has an unconditional branch: give a null condition, or take "full"')
    drops_down = drops_up = branch.control is False
    if branch.control is None and null is not None:
        drops_down, drops_up = null.drops_down, null.drops_up
    tokens = condition.tokens if branch.tokens or null is None else null.tokens
    control = condition.control
    return Condition(tokens, None if control is None else drop_control(control, down=drops_down, up=drops_up))


def drop_control(control: ControlMaps, *, down: bool, up: bool) -> ControlMaps:
    """Return control maps of which some are set to zero.

    Args:
        control: the maps.
        down: whether those of the encoder are set to zero.
        up: whether those of the decoder and the middle block are set to zero.
    """
    return control.map(torch.zeros_like if down else _same, torch.zeros_like if up else _same)


def keep_control(control: ControlMaps | None, kept: Tensor, *, down: bool, up: bool) -> ControlMaps | None:
    """Return control maps that are zero for some rows.

    Args:
        control: the maps, or None for a denoiser without control.
        kept: [B, 1, 1], 1 for rows that keep their maps and 0 for others.
        down: whether those of the encoder become zero.
        up: whether those of the decoder become zero.
    """
    if control is None:
        return None

    def keep(maps: Tensor) -> Tensor:
        return maps * kept.view(-1, *[1] * (maps.ndim - 1))

    return control.map(keep if down else _same, keep if up else _same)


def _same(tensor: Tensor) -> Tensor:
    return tensor
