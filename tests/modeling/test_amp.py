"""Which precision is chosen on which device, and why."""

import contextlib
import logging

import pytest
import torch
from torch.overrides import TorchFunctionMode

from fastreid.config import get_cfg
from fastreid.modeling import amp


def cfg_with(dtype, enabled=True):
    cfg = get_cfg()
    cfg.SOLVER.AMP.ENABLED = enabled
    cfg.SOLVER.AMP.DTYPE = dtype
    return cfg


@pytest.fixture(autouse=True)
def forget_choices():
    amp._best_dtype.cache_clear()
    yield
    amp._best_dtype.cache_clear()


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, torch.bfloat16), (False, None)])
def test_auto_on_a_cpu_follows_its_instructions(monkeypatch, caplog, has_bf16, expected):
    monkeypatch.setattr(amp, "cpu_has_bf16", lambda: has_bf16)
    with caplog.at_level(logging.INFO, logger="fastreid"):
        assert amp.amp_dtype(cfg_with("auto"), "cpu") is expected
        assert amp.amp_dtype(cfg_with("auto"), "cpu") is expected
    assert len(caplog.records) == (0 if has_bf16 else 1)  # why, once


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_on_cuda(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert amp.amp_dtype(cfg_with("auto"), "cuda") is expected


def test_off_and_explicit():
    assert amp.amp_dtype(cfg_with("bf16", enabled=False), "cpu") is None
    assert amp.amp_dtype(cfg_with("fp32"), "cuda") is None
    assert amp.amp_dtype(cfg_with("bf16"), "cpu") is torch.bfloat16
    assert amp.amp_dtype(cfg_with("fp16"), "cuda:0") is torch.float16


def test_errors():
    with pytest.raises(ValueError, match="fp16 needs CUDA"):
        amp.amp_dtype(cfg_with("fp16"), "cpu")
    with pytest.raises(ValueError, match="did you mean 'fp16' or 'bf16'"):
        amp.amp_dtype(cfg_with("bfp16"), "cpu")


def test_autocast_acts_only_inside():
    layer, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    with amp.autocast_for(cfg_with("bf16"), torch.device("cpu")):
        assert layer(x).dtype is torch.bfloat16
    assert layer(x).dtype is torch.float32
    with amp.autocast_for(cfg_with("auto", enabled=False), "cpu"):
        assert layer(x).dtype is torch.float32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16\n", True),
        ("flags : fpu avx2\n", False),
        ("Features\t: fp asimd bf16\n", True),
    ],
)
def test_cpu_flags(monkeypatch, text, expected):
    monkeypatch.setattr(amp.Path, "read_text", lambda self: text)
    amp._cpu_flags.cache_clear()
    assert amp.cpu_has_bf16() is expected
    amp._cpu_flags.cache_clear()


NARROW = [((4, 2), 3, 2, 1), ((8, 1), 3, 2, 1), ((16, 4), 3, 2, 0), ((1, 1), 5, 2, 2), ((4, 2), 1, 2, 0)]
WIDE = [((4, 3), 3, 2, 1), ((4, 2), 3, 1, 1), ((4, 3), 3, 1, 0), ((2, 8), 3, (2, 1), 1)]


def convolved(size, kernel, stride, padding, context):
    """Output of a convolution and the gradient of its weights, both float32, with freed memory that is not zero."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(64, 64, kernel, stride, padding)
    images = torch.randn(8, 64, *size)
    dirt = [torch.full((300_000,), 1e30) for _ in range(4)]
    del dirt
    with context:
        output = layer(images)
    (gradient,) = torch.autograd.grad(output.float().square().sum(), layer.weight)
    return output.dtype, output.float(), gradient


@pytest.mark.parametrize("shape", NARROW + WIDE)
def test_narrow_convolutions_are_right_in_bf16_on_every_cpu(shape):
    context = amp.autocast_for(cfg_with("bf16"), "cpu")
    dtype, output, gradient = convolved(*shape, context)
    _, right, right_gradient = convolved(*shape, contextlib.nullcontext())
    assert dtype is torch.bfloat16
    torch.testing.assert_close(output, right, rtol=0.02, atol=0.02)
    torch.testing.assert_close(gradient, right_gradient, rtol=0.03, atol=0.03 * float(right_gradient.abs().max()))
    with context:  # a second time
        assert torch.ones(2, 2).matmul(torch.ones(2, 2)).dtype is torch.bfloat16
    assert torch.ones(2, 2).matmul(torch.ones(2, 2)).dtype is torch.float32


@pytest.mark.parametrize(("shapes", "dtype"), [(NARROW, torch.float32), (WIDE, torch.bfloat16)])
@pytest.mark.parametrize("has_avx512", [True, False])
def test_only_narrow_convolutions_are_computed_in_float32_and_only_with_avx512(monkeypatch, shapes, dtype, has_avx512):
    monkeypatch.setattr(amp, "_cpu_flags", lambda: {"avx512f"} if has_avx512 else set())
    seen = []

    class Seen(TorchFunctionMode):  # entered first, so that it sees what the other mode calls
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.conv2d:
                seen.append((args[0].dtype, torch.is_autocast_enabled("cpu")))
            return func(*args, **(kwargs or {}))

    for size, kernel, stride, padding in shapes:
        layer = torch.nn.Conv2d(4, 4, kernel, stride, padding)
        with Seen(), amp.autocast_for(cfg_with("bf16"), "cpu"):
            layer(torch.randn(2, 4, *size))
    in_bf16 = not has_avx512 or dtype is torch.bfloat16
    assert seen == [(torch.float32, in_bf16)] * len(shapes)
