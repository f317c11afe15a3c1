"""Cross-attention to a condition of one token, whose weight is always 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class SingleTokenAttention:
    """An attention processor of diffusers: with one token, the output is out(value(token)) at every position.

    The softmax over one key is 1, whatever query and key are. So value and output projection are computed for one row
    in place of h * w, and query and key projections not at all. The result equals that of the full attention up to
    rounding. With several tokens, or a mask, it is the full attention.

    Args:
        full: the processor of the full attention.
    """

    def __init__(self, full: Callable[..., Tensor]) -> None:
        self._full = full

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Return the output [B, N, C] (or [B, 1, C], to be broadcast) of an attention; arguments as in diffusers."""
        tokens = encoder_hidden_states
        if tokens is None or tokens.shape[1] != 1 or attention_mask is not None or not _is_plain(attn):
            return self._full(attn, hidden_states, tokens, attention_mask, temb, **options)
        project, _ = attn.to_out
        return project(attn.to_v(tokens))


def _is_plain(attn: Any) -> bool:
    """Whether the attention is the one of transformer blocks: no norm of the tokens, no residual, no dropout."""
    dropout = attn.to_out[1].p if attn.training else 0.0
    normed = attn.norm_cross or attn.group_norm is not None or attn.spatial_norm is not None
    return not (normed or attn.residual_connection or dropout) and attn.rescale_output_factor == 1


def use_single_token_attention(unet: nn.Module) -> None:
    """Give all cross-attentions of a UNet a `SingleTokenAttention`.

    Args:
        unet: a `diffusers.UNet2DConditionModel`.
    """
    for module in unet.modules():
        cross = getattr(module, "attn2", None)  # of the transformer blocks
        if cross is not None:
            cross.set_processor(SingleTokenAttention(cross.processor))
