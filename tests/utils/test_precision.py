"""Autocast is off, in the block alone; how float32 is computed."""

import warnings

import torch

from fastreid.utils.precision import full_precision, set_float32_precision


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


def test_float32_on_cuda_is_set_for_products_and_convolutions():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for precision in ("tf32", "ieee"):
                set_float32_precision(precision)
                allowed = precision == "tf32"
                assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is allowed
                parts = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn
                assert [part.fp32_precision == "tf32" for part in parts] == [allowed] * 3
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
