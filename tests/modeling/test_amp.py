"""Which precision is chosen on which device, and why."""

import logging

import pytest
import torch

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
    amp.cpu_has_bf16.cache_clear()
    assert amp.cpu_has_bf16() is expected
    amp.cpu_has_bf16.cache_clear()
