"""Poolings against closed forms."""

import pytest
import torch

from fastreid.layers import POOLING_REGISTRY
from fastreid.layers import pooling as poolings

MAPS = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[-4.0, 0.0], [0.0, 0.0]]]])  # [1, 2, 2, 2]

# What becomes of the two channels; values below 1e-6 count as 1e-6 in generalised means.
EXPECTED = {
    "GlobalAvgPool": [3.0, -1.0],
    "FastGlobalAvgPool": [3.0, -1.0],
    "GlobalMaxPool": [6.0, 0.0],
    "AdaptiveAvgMaxPool": [9.0, -1.0],
    "ClipGlobalAvgPool": [1.0, 0.0],
    "GeneralizedMeanPooling": [(252 / 4) ** (1 / 3), 1e-6],  # 1 + 8 + 27 + 216
    "GeneralizedMeanPoolingP": [(252 / 4) ** (1 / 3), 1e-6],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_poolings_of_a_map(name):
    pooled = POOLING_REGISTRY.get(name)()(MAPS)
    assert pooled.shape == (1, 2, 1, 1)
    torch.testing.assert_close(pooled.flatten(), torch.tensor(EXPECTED[name]), rtol=1e-5, atol=1e-7)


def test_the_maximum_is_deterministic_and_shared_by_equal_positions():
    maps = torch.tensor([[[[1.0, 5.0], [5.0, 2.0]]]], requires_grad=True)
    pooled = POOLING_REGISTRY.get("GlobalMaxPool")()(maps)
    pooled.sum().backward()
    assert maps.grad.flatten().tolist() == [0.0, 0.5, 0.5, 0.0]
    assert "adaptive" not in pooled.grad_fn.name().lower()  # whose gradient torch refuses with DETERMINISTIC


def test_identity_and_flatten_lose_nothing():
    assert torch.equal(poolings.Identity()(MAPS), MAPS)
    assert torch.equal(poolings.Flatten()(MAPS).flatten(), MAPS.flatten())
    assert poolings.Flatten()(MAPS).shape == (1, 8, 1, 1)


def test_all_names_are_tested():
    assert set(POOLING_REGISTRY) == {*EXPECTED, "Identity", "Flatten"}


def test_only_one_exponent_is_learnt_and_it_is_fast_reids_name():
    assert dict(poolings.GeneralizedMeanPooling().named_parameters()) == {}
    pool = poolings.GeneralizedMeanPoolingP()
    assert {name: p.tolist() for name, p in pool.state_dict().items()} == {"p": [3.0]}
    pool(MAPS.abs()).sum().backward()
    assert pool.p.grad.item() > 0  # a larger exponent gives a larger mean
    with torch.no_grad():
        pool.p.fill_(1.0)
    torch.testing.assert_close(pool(MAPS[:, :1]), torch.tensor([[[[3.0]]]]))


def test_an_unknown_name_is_explained():
    with pytest.raises(KeyError, match="POOL_LAYER 'GlobalAvgPol'; did you mean 'GlobalAvgPool'"):
        POOLING_REGISTRY.get("GlobalAvgPol")


@pytest.mark.parametrize("name", ["GeneralizedMeanPooling", "GeneralizedMeanPoolingP"])
def test_the_second_argument_is_the_size_as_in_fast_reid(name):
    maps = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    make = getattr(poolings, name)
    assert torch.equal(make(3, (1, 1))(maps), make()(maps))
    parts = make(3, 2)(maps)
    assert parts.shape == (2, 3, 2, 2)
    torch.testing.assert_close(parts[:, :, :1, :1], make()(maps[:, :, :2, :2]))
