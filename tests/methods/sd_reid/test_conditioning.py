"""Condition learner and View-Refined Decoder."""

import pytest
import torch

from fastreid.methods.sd_reid.conditioning import ConditionLearner, PlainConditions, perturb
from fastreid.methods.sd_reid.view_refined_decoder import ViewRefinedDecoder
from fastreid.methods.sd_reid.whitening import ConditionWhitening, LatentWhitening
from fastreid.modeling.diffusion import LatentShape
from fastreid.utils.draws import BatchDraws


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
    draws = BatchDraws(torch.arange(1), 1, torch.device("cpu"))
    moved = (perturb(tokens, 0.5, draws) - tokens).std(dim=-1)
    torch.testing.assert_close(moved, 0.5 * tokens.std(dim=-1), rtol=0.05, atol=0)
    assert perturb(tokens, 0.0, draws) is tokens


def correlated(images: int) -> torch.Tensor:
    """Conditions [images, 2, 8] whose mean is far larger than what tells images apart."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(2, 8, 8, generator=generator)
    return torch.einsum("btd,tde->bte", torch.randn(images, 2, 8, generator=generator), mix) + 20


def test_whitened_conditions_have_zero_mean_and_unit_covariance():
    tokens, whitening = correlated(4000), ConditionWhitening(2, 8)
    whitening.fit(tokens)
    white = whitening(tokens)
    for block in white.unbind(dim=1):
        torch.testing.assert_close(block.mean(dim=0), torch.zeros(8), atol=1e-3, rtol=0)
        # Shrinkage keeps the least varying directions a little below one.
        torch.testing.assert_close(block.T.cov(), torch.eye(8), atol=0.1, rtol=0)
    torch.testing.assert_close(whitening.map, whitening.map.transpose(1, 2))


def test_whitening_survives_fewer_images_than_dimensions_and_constant_blocks():
    whitening = ConditionWhitening(2, 8)
    tokens = correlated(3)
    tokens[:, 1] = 5.0
    whitening.fit(tokens)
    assert whitening(tokens).isfinite().all()


def test_whitening_changes_nothing_before_it_is_fitted_and_refuses_a_single_image():
    whitening = ConditionWhitening(2, 8)
    assert torch.equal(whitening(correlated(3)), correlated(3))
    with pytest.raises(ValueError, match="two or more images' statistics, got 1"):
        whitening.fit(correlated(1))


def test_whitened_latents_have_unit_covariance_and_come_back():
    whitening = LatentWhitening(4)
    mixing = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    vectors = torch.randn(500, 4, generator=torch.Generator().manual_seed(2)) @ mixing + 3
    torch.testing.assert_close(whitening.encode(vectors), vectors)  # the identity before `fit`
    whitening.fit(vectors)
    latents = whitening.encode(vectors)
    torch.testing.assert_close(latents.mean(dim=0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.T @ latents / 500, torch.eye(4), atol=2e-2, rtol=0)
    torch.testing.assert_close(whitening.decode(latents), vectors, atol=1e-4, rtol=1e-4)


def test_plain_conditions_are_left_as_they_are():
    plain = PlainConditions(num_tokens=3, dim=8)
    tokens = torch.randn(2, 3, 8)
    assert plain(tokens, torch.randn(2, 8)) is tokens
    assert torch.equal(plain.null_like(tokens), plain.null.expand(2, 3, 8))
    assert not plain.null_like(tokens, learnt=False).any()
