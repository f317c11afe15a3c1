"""Classifier-free guidance: which branches are predicted, and how predictions are combined.

A branch keeps or drops the condition's tokens (identity and view) and its view control. The release's mode names
list their branches from weak to full:

    full           c
    uc_full        u + s_full (c - u)
    down_full      d + s_full (c - d)
    uc_down_full   u + s_down (d - u) + s_full (c - d)
    inverse        t + s_down (c - t)

c: tokens and control. u: null tokens, and control dropped or kept as training's null rows had it. d: null tokens,
control kept. t: tokens, control dropped. s_full and s_down are FULL_ and DOWN_BLOCK_GUIDANCE_SCALE. Of `inverse` only
the name is documented; here it swaps the roles of `down_full`: it strengthens the view instead of the person.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastreid.config import ConfigError
from fastreid.structures import Condition, ControlMaps
from fastreid.utils.suggest import explain_choice

Scales = tuple[float, float]


@dataclass(frozen=True)
class Branch:
    """What a branch keeps of a condition; `control=None` follows training's null rows."""

    tokens: bool
    control: bool | None


FULL, UNCONDITIONAL = Branch(True, True), Branch(False, None)
CONTROL_ONLY, TOKENS_ONLY = Branch(False, True), Branch(True, False)


@dataclass(frozen=True)
class Guidance:
    """Branches to predict, and their combination given (s_full, s_down)."""

    branches: tuple[Branch, ...]
    combine: Callable[[Sequence[Tensor], Scales], Tensor]


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
    """The guidance called `name` in `TEST.SDMODEL.INVERSE_TYPE`.

    Raises:
        ConfigError: unknown name.
    """
    if name not in GUIDANCE:
        raise ConfigError(explain_choice("TEST.SDMODEL.INVERSE_TYPE", name, GUIDANCE))
    return GUIDANCE[name]


@dataclass(frozen=True)
class NullRows:
    """What replaces the condition of an unconditional row: null tokens [B, L, D], and which control goes."""

    tokens: Tensor
    drops_down: bool
    drops_up: bool

    def branch(self, branch: Branch, condition: Condition) -> Condition:
        """`condition` as `branch` sees it."""
        drops_down = self.drops_down if branch.control is None else not branch.control
        drops_up = self.drops_up if branch.control is None else not branch.control
        return Condition(
            condition.tokens if branch.tokens else self.tokens,
            drop_control(condition.control, down=drops_down, up=drops_up),
        )


def drop_control(control: ControlMaps, *, down: bool, up: bool) -> ControlMaps:
    """The maps with the encoder's and / or the decoder's set to zero."""
    return control.map(torch.zeros_like if down else _same, torch.zeros_like if up else _same)


def _same(tensor: Tensor) -> Tensor:
    return tensor
