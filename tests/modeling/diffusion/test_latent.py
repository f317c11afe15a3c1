"""Folding features into latents."""

import pytest
import torch

from fastreid.modeling.diffusion.latent import LatentShape


@pytest.mark.parametrize(("dim", "height", "width"), [(768, 16, 12), (192, 8, 6), (384, 12, 8), (1024, 16, 16)])
def test_shape_follows_from_the_feature_dimension(dim, height, width):
    assert LatentShape.of(dim) == LatentShape(height, width)


@pytest.mark.parametrize("dim", [770, 4 * 13, 4 * 17])
def test_dimensions_without_a_sensible_latent_are_refused(dim):
    with pytest.raises(ValueError, match=f"feature of {dim} numbers.*192.*384.*768"):
        LatentShape.of(dim)


def test_unfolding_undoes_folding():
    features = torch.randn(2, 3, 192)
    latent = LatentShape.of(192)
    assert latent.fold(features).shape == (2, 3, 4, 8, 6)
    assert torch.equal(latent.unfold(latent.fold(features)), features)
