"""Keys of DCAC reach the parts that read them, and a step has the losses that they describe."""

from functools import reduce

import pytest
import torch
import torch.nn.functional as F

# Key, a value that is not the default, and the attribute of the model that must have it.
ATTRIBUTES = [
    ("DCAC.NECK_PASSES", 2, "neck_passes"),
    ("MODEL.LOSSES.PCL.SCALE", 0.5, "prototype_weight"),
    ("MODEL.LOSSES.PCL.REINIT_PERIOD", 3, "reinit_period"),
    ("MODEL.LOSSES.PCL.TEMPERATURE", 0.1, "memory.temperature"),
    ("MODEL.LOSSES.PCL.MOMENTUM", 0.9, "memory.momentum"),
    ("MODEL.LOSSES.PCL.UPDATE", "all", "memory._move.__name__"),
    ("MODEL.LOSSES.DIFF.SCALE", 0.5, "feedback_weight"),
    ("DCAC.COND.SOURCE", "fc+pcl", "feedback.condition.source"),
    ("DCAC.COND.TAU", 0.1, "feedback.condition.tau"),
    ("DCAC.COND.HARD_LABEL", True, "feedback.condition.hard_label"),
    ("DCAC.COND.DETACH", True, "feedback.condition.detached"),
    ("DCAC.SD.SAMPLE_POSTERIOR", False, "feedback.samples_posterior"),
    ("DCAC.SD.TIMESTEPS", 500, "feedback.schedule.num_timesteps"),
]


@pytest.mark.parametrize(("key", "value", "attribute"), ATTRIBUTES, ids=lambda word: str(word))
def test_values_reach_the_parts_that_read_them(make_dcac, key, value, attribute):
    found, default = (reduce(getattr, attribute.split("."), model) for model in (make_dcac(key, value), make_dcac()))
    assert found == ("_by_all" if value == "all" else value) != default


@pytest.mark.parametrize(("key", "part"), [
    ("DCAC.CLASSIFIER_STD", "heads.weight"), ("DCAC.COND.INIT_STD", "feedback.condition.class_prompts"),
])  # fmt: skip
@pytest.mark.parametrize("std", [0.02, 3.0])
def test_first_weights_have_the_standard_deviation_of_their_key(make_dcac, key, part, std):
    assert dict(make_dcac(key, std).named_parameters())[part].std().item() == pytest.approx(std, rel=0.25)


def test_the_condition_has_the_bottleneck_of_its_key(make_dcac):
    kinds = {name: len(make_dcac("DCAC.COND.BOTTLENECK", name).feedback.condition.bottleneck) for name in ("bn", "net")}
    assert kinds == {"bn": 1, "net": 6} and len(make_dcac().feedback.condition.bottleneck) == 0


def test_adapters_have_rank_scale_and_layers_of_their_keys(make_dcac):
    keys = ("DCAC.LORA.RANK", 3, "DCAC.LORA.ALPHA", 6.0, "DCAC.LORA.TARGETS", ("attn1.qo", "ff.out"))
    layers = {
        name.rpartition("transformer_blocks.")[2][2:]: module
        for name, module in make_dcac(*keys).feedback.denoiser.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "scaling")
    }
    assert layers.keys() == {"attn1.to_q", "attn1.to_out.0", "ff.net.2"}
    assert {(len(layer.lora_A["default"].weight), layer.scaling["default"]) for layer in layers.values()} == {(3, 2.0)}


@pytest.mark.parametrize("source", ["fc", "pcl", "fc+pcl"])
def test_the_losses_of_a_step_are_those_of_the_formulas(make_dcac, batch, source):
    """L = 0.7 L_id + 0.6 L_pcl + 0.5 L_diff; label smoothing 0.1 is spread over all people."""
    scales = ("MODEL.LOSSES.CE.SCALE", 0.7, "MODEL.LOSSES.PCL.SCALE", 0.6, "MODEL.LOSSES.DIFF.SCALE", 0.5)
    model = make_dcac(*scales, "DCAC.COND.SOURCE", source, "DCAC.COND.TAU", 0.3, "DCAC.CLASSIFIER_STD", 0.5)
    prototypes = F.normalize(torch.randn(model.memory.class_prototypes.shape), dim=1)
    model.memory.class_prototypes.copy_(prototypes)
    given, compare = [], model.feedback.forward
    model.feedback.forward = lambda *inputs: given.append(inputs) or compare(*inputs)
    seen = []
    model.feedback.denoiser.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2].tokens))
    torch.manual_seed(5)
    losses = model(batch)

    raw = model.backbone(model.preprocess_image(batch))[..., 0, 0]
    neck = (raw - raw.mean(dim=0)) / (raw.var(dim=0, unbiased=False) + 1e-5).sqrt()
    logits, features, targets = neck @ model.heads.weight.T, F.normalize(neck, dim=1), batch["targets"]
    wanted = 0.9 * F.one_hot(targets, 5) + 0.1 / 5
    torch.testing.assert_close(losses["loss_cls"], -0.7 * (wanted * logits.log_softmax(dim=1)).sum(dim=1).mean())
    similar = features @ prototypes.T / 0.01
    own = similar[torch.arange(8), targets]
    torch.testing.assert_close(losses["loss_prototype"], 0.6 * (similar.logsumexp(dim=1) - own).mean())
    parts = {"fc": (logits / 0.3).softmax(dim=1), "pcl": similar.softmax(dim=1)}
    mixed = sum(parts[name] for name in source.split("+")) / len(source.split("+"))
    torch.testing.assert_close(seen[0], (mixed @ model.feedback.condition.prompts)[:, None], rtol=1e-4, atol=1e-4)
    torch.manual_seed(5)
    torch.testing.assert_close(losses["loss_diffusion"], 0.5 * compare(*given[0][:3], _with(model, prototypes), batch))


def _with(model, prototypes):
    """The memory as it was before the step moved it."""
    model.memory.class_prototypes.copy_(prototypes)
    return model.memory
