"""The condition: limits of its mixing, hard labels, and what it is passed through."""

import pytest
import torch
from torch import nn

from fastreid.config import ConfigError
from fastreid.methods.dcac.condition import IdentityCondition
from fastreid.modeling.prototypes import PrototypeMemory


def make(**options):
    torch.manual_seed(0)
    return IdentityCondition(**{"source": "fc", "num_classes": 5, "feature_dim": 6, "dim": 8, **options})


def run(condition, logits, memory=None):
    features = nn.functional.normalize(torch.randn(len(logits), 6, generator=torch.Generator().manual_seed(2)))
    return condition(logits, features, torch.arange(len(logits)) % 5, memory)


def test_a_low_temperature_takes_the_prompt_of_the_most_probable_person():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    condition = make(tau=1e-4)
    torch.testing.assert_close(run(condition, logits)[:, 0], condition.prompts[logits.argmax(dim=1)])


def test_equal_logits_give_the_mean_prompt_as_one_token():
    condition = make()
    c = run(condition, torch.zeros(3, 5))
    assert c.shape == (3, 1, 8)
    torch.testing.assert_close(c[:, 0], condition.prompts.mean(dim=0).expand(3, 8))


def test_both_sources_are_averaged():
    memory = PrototypeMemory(5, 6, temperature=0.1, momentum=0.2, update="hard")
    memory.class_prototypes.normal_(generator=torch.Generator().manual_seed(3))
    logits, features = torch.randn(2, 5), nn.functional.normalize(torch.randn(2, 6))
    parts = [make(source=source).weights(logits, features, memory) for source in ("fc", "pcl")]
    torch.testing.assert_close(make(source="fc+pcl").weights(logits, features, memory), sum(parts) / 2)


def test_hard_labels_are_finite_where_the_probability_is_zero():
    logits = torch.full((2, 5), 0.0)
    logits[:, 4] = 1e4  # so that the probability of the true person is 0
    condition = make(hard_label=True, tau=0.1)
    c = run(condition, logits.requires_grad_())
    assert torch.equal(c[:, 0], condition.prompts[:2])
    c.sum().backward()
    assert logits.grad is None and condition.prompts.grad.isfinite().all()


def test_a_detached_condition_trains_the_prompts_only():
    logits = torch.zeros(2, 5, requires_grad=True)
    condition = make(detached=True)
    run(condition, logits).sum().backward()
    assert logits.grad is None and condition.prompts.grad.any()


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("identity", []),
        ("silu", [nn.SiLU]),
        ("bn", [nn.BatchNorm1d]),
        ("bn_silu", [nn.BatchNorm1d, nn.SiLU]),
        ("net", [nn.BatchNorm1d, nn.SiLU, nn.Linear, nn.BatchNorm1d, nn.SiLU, nn.Linear]),
    ],
)
def test_the_condition_passes_through_a_bottleneck(name, kinds):
    condition, logits = make(bottleneck=name), torch.randn(4, 5, generator=torch.Generator().manual_seed(4))
    assert [type(layer) for layer in condition.bottleneck] == kinds
    c = run(condition, logits)[:, 0]
    expected = logits.softmax(dim=1) @ condition.prompts
    for layer in condition.bottleneck:
        expected = layer(expected)
    torch.testing.assert_close(c, expected)
    linear = [layer for layer in condition.bottleneck if isinstance(layer, nn.Linear)]
    assert all(layer.bias is None for layer in linear)
    assert all(0.9 < float(layer.weight.detach().std()) < 1.1 for layer in linear)


def test_a_condition_of_features_has_no_hard_labels():
    with pytest.raises(ConfigError, match="HARD_LABEL.*SOURCE"):
        make(source="feature", hard_label=True)


def test_prompts_need_people():
    with pytest.raises(ConfigError, match="at least one person"):
        make(num_classes=0)


def test_the_name_of_the_table_tells_whether_it_depends_on_the_people():
    assert dict(make().named_parameters()).keys() == {"class_prompts"}
    assert make().prompts.shape == (5, 8)
    assert dict(make(source="feature").named_parameters()).keys() == {"table"}
    assert make(source="feature").prompts.shape == (6, 8)
