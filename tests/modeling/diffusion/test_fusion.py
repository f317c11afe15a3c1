"""Descriptors and what their cosine means."""

import pytest
import torch
import torch.nn.functional as F

from fastreid.config import ConfigError
from fastreid.modeling.diffusion.fusion import Fusion

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


def test_parts():
    assert Fusion("concat", 1.0, ("person",))(PERSON, None).shape == (2, 8)
    assert Fusion("concat", 1.0, ("generated",))(PERSON, GENERATED).shape == (2, 24)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("wieghted", 1.0, ("person",)), "did you mean 'weighted'"),
        (("concat", 1.0, ("persons",)), "did you mean 'person'"),
        (("concat", 1.0, ()), "needs a part"),
        (("weighted", -0.1, ("person",)), "weight of 0 or more"),
    ],
)
def test_wrong_settings_are_explained(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Fusion(*arguments)
