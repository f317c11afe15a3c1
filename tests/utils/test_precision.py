"""Autocast is off in the block alone."""

import torch

from fastreid.utils.precision import full_precision


def test_products_in_the_block_are_not_rounded():
    rows = torch.randn(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        with full_precision():
            inside = rows @ rows.T
        outside = rows @ rows.T
    assert inside.dtype == torch.float32 and outside.dtype == torch.bfloat16
    assert torch.equal(inside, rows @ rows.T)
    with full_precision():
        assert not torch.is_autocast_enabled("cpu")
