"""Descriptors and what their cosine means."""

import pytest
import torch
import torch.nn.functional as F

from fastreid.config import ConfigError
from fastreid.methods.sd_reid.fusion import Fusion, unit_rows

PERSON, GENERATED = torch.randn(2, 8), torch.randn(2, 3, 8)


def test_concatenation_keeps_the_parts_as_they_are():
    descriptor = Fusion("concat", 1.0, ("person", "generated"))(PERSON, GENERATED)
    assert torch.equal(descriptor, torch.cat([PERSON, GENERATED.flatten(1)], dim=1))


def test_weighted_fusion_is_a_fusion_of_cosines():
    descriptor = Fusion("weighted", 0.6, ("person", "generated"))(PERSON, GENERATED)
    person = F.cosine_similarity(PERSON[:1], PERSON[1:]).item()
    generated = F.cosine_similarity(GENERATED[0], GENERATED[1], dim=1).mean().item()
    fused = F.cosine_similarity(descriptor[:1], descriptor[1:]).item()
    assert fused == pytest.approx((person + 0.6 * generated) / 1.6, abs=1e-6)


def test_each_view_can_have_a_weight_of_its_own():
    descriptor = Fusion("weighted", 9.0, ("person", "generated"), view_weights=[0.5, 0.0, 1.5])(PERSON, GENERATED)
    person = F.cosine_similarity(PERSON[:1], PERSON[1:]).item()
    cosines = F.cosine_similarity(GENERATED[0], GENERATED[1], dim=1).tolist()
    fused = F.cosine_similarity(descriptor[:1], descriptor[1:]).item()
    assert fused == pytest.approx((person + 0.5 * cosines[0] + 1.5 * cosines[2]) / 3, abs=1e-6)
    same = Fusion("weighted", 9.0, ("person", "generated"), view_weights=[3.0, 3.0, 3.0])(PERSON, GENERATED)
    torch.testing.assert_close(same, Fusion("weighted", 9.0, ("person", "generated"))(PERSON, GENERATED))


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-18, 1e-13, 1e13, 1e30, 1e37])
def test_weighted_fusion_does_not_know_how_long_features_are(scale):
    fusion = Fusion("weighted", 0.6, ("person", "generated"))
    expected = fusion(PERSON, GENERATED)
    close = {"rtol": 1e-5, "atol": 1e-6} if scale > 1e-38 else {"rtol": 0, "atol": 5e-3}  # denormals have few digits
    torch.testing.assert_close(fusion(PERSON * scale, GENERATED), expected, **close)
    torch.testing.assert_close(fusion(PERSON, GENERATED * scale), expected, **close)


def test_unit_rows_have_the_bits_of_normalize_and_zeros_stay_zeros():
    assert torch.equal(unit_rows(GENERATED, dim=2), F.normalize(GENERATED, dim=2))
    assert torch.equal(unit_rows(PERSON.half(), dim=1), F.normalize(PERSON.half().float(), dim=1))
    assert torch.equal(unit_rows(torch.zeros(2, 4), dim=1), torch.zeros(2, 4))
    assert unit_rows(torch.tensor([[float("nan"), 1.0]]), dim=1).isnan().any()


def test_parts():
    assert Fusion("concat", 1.0, ("person",))(PERSON, None).shape == (2, 8)
    assert Fusion("concat", 1.0, ("generated",))(PERSON, GENERATED).shape == (2, 24)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("wieghted", 1.0, ("person",)), "did you mean 'weighted'"),
        (("concat", 1.0, ("persons",)), "did you mean 'person'"),
        (("concat", 1.0, ()), "needs a part"),
        (("weighted", -0.1, ("person",)), "weights of 0 or more"),
        (("weighted", 1.0, ("person",), 1.0, [0.5, -1.0]), "weights of 0 or more"),
    ],
)
def test_wrong_settings_are_explained(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Fusion(*arguments)


def test_the_latent_has_a_weight_of_its_own():
    latent = torch.randn(2, 8)
    descriptor = Fusion("weighted", 0.6, ("person", "latent", "generated"), 0.3)(PERSON, GENERATED, latent)
    person, own = (F.cosine_similarity(rows[:1], rows[1:]).item() for rows in (PERSON, latent))
    generated = F.cosine_similarity(GENERATED[0], GENERATED[1], dim=1).mean().item()
    fused = F.cosine_similarity(descriptor[:1], descriptor[1:]).item()
    assert fused == pytest.approx((person + 0.3 * own + 0.6 * generated) / 1.9, abs=1e-6)
    assert Fusion("weighted", 0.6, ("person", "latent")).needs_latent
    assert not Fusion("weighted", 0.6, ("person", "generated")).needs_latent
