"""Condition learner and View-Refined Decoder."""

import pytest
import torch

from fastreid.modeling.diffusion import ConditionLearner, LatentShape, ViewRefinedDecoder
from fastreid.modeling.diffusion.conditioning import perturb


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_real_size_has_the_published_parameter_counts():
    assert count(ConditionLearner(num_tokens=12, dim=768, depth=1, num_heads=12)) == 7_087_872 + 12 * 768
    assert count(ViewRefinedDecoder(LatentShape.of(768), [320, 640, 1280])) == 191_360


def test_tokens_mix_identity_and_view():
    learner = ConditionLearner(num_tokens=4, dim=32, depth=2, num_heads=4)
    identity, view = torch.randn(2, 3, 32), torch.randn(2, 32)
    tokens = learner(identity, view)
    assert tokens.shape == (2, 4, 32)
    assert not torch.allclose(learner(identity, view + 1 * torch.randn(2, 32))[:, 0], tokens[:, 0])


def test_null_condition_is_learnt_or_zeros():
    learner = ConditionLearner(num_tokens=4, dim=32, depth=1, num_heads=4)
    tokens = torch.randn(2, 4, 32)
    assert torch.equal(learner.null_like(tokens)[1], learner.null) and learner.null.any()
    assert not learner.null_like(tokens, learnt=False).any()


def test_heads_must_divide_the_dimension():
    with pytest.raises(ValueError, match="HEADS=24 does not divide the feature dimension 100"):
        ConditionLearner(num_tokens=4, dim=100, depth=1, num_heads=24)


def test_maps_have_the_sizes_of_the_unets_levels():
    maps = ViewRefinedDecoder(LatentShape.of(768), [320, 640, 1280])(torch.randn(2, 768))
    sizes = [tuple(m.shape[1:]) for m in maps.down]
    assert sizes == [tuple(m.shape[1:]) for m in maps.up] == [(320, 16, 12), (640, 8, 6), (1280, 4, 3)]
    assert maps.mid is None


def test_odd_levels_are_rounded_up_as_a_unet_does():
    maps = ViewRefinedDecoder(LatentShape.of(192), [8, 8, 8])(torch.randn(1, 192))
    assert [tuple(m.shape[2:]) for m in maps.down] == [(8, 6), (4, 3), (2, 2)]


def test_a_learnt_middle_residual_starts_at_zero():
    decoder = ViewRefinedDecoder(LatentShape.of(192), [8, 8], mid_channels=16)
    mid = decoder(torch.randn(3, 192)).mid
    assert mid.shape == (3, 16, 1, 1) and not mid.any()


def test_perturbation_scales_with_each_token():
    tokens = torch.tensor([1.0, 100.0]).view(1, 2, 1) * torch.randn(1, 2, 20_000)
    moved = (perturb(tokens, 0.5) - tokens).std(dim=-1)
    torch.testing.assert_close(moved, 0.5 * tokens.std(dim=-1), rtol=0.05, atol=0)
    assert perturb(tokens, 0.0) is tokens
