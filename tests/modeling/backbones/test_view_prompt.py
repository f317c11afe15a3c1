"""The view prompt enters the ViTs of CLIP and timm as it enters that of this library."""

from functools import partial

import pytest
import timm
import torch

from fastreid.config import ConfigError
from fastreid.methods.sd_reid.encoder import PersonEncoder
from fastreid.modeling.backbones import ClipViT, ViewPromptViT, build_backbone, with_view_prompt
from tests.modeling import toys

SIZE = (64, 32)
SMALL = {"img_size": SIZE, "depth": 3, "embed_dim": 48, "num_heads": 2, "num_classes": 0}
# LAION's CLIP, DINOv2 without and with registers, DINOv3, and EVAs with other combinations of tables and rotations.
NAMES = {
    "vit_base_patch16_clip_224": {},
    "vit_small_patch14_dinov2": {"patch_size": 16},
    "vit_small_patch14_reg4_dinov2": {"patch_size": 16},
    "vit_small_patch16_dinov3": {},
    "eva02_tiny_patch14_224": {"patch_size": 16},
    "vit_small_patch16_rope_mixed_224": {},
    "vit_small_patch16_rope_ape_224": {},
}

TIMM = {"NAME": "build_timm_backbone", "DEPTH": "50x", "DROP_PATH_RATIO": 0.1}


def small(name):
    torch.manual_seed(2)
    model = timm.create_model(name, **SMALL, **NAMES[name]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", NAMES)
def test_without_the_prompt_the_tokens_are_timms(name):
    """Attention cannot see the prompt here; all else is as it is."""
    stock, backbone = small(name), ViewPromptViT(small(name))
    last = backbone.vit.blocks[-1]
    number = 2 * 4 + stock.num_prefix_tokens + 1
    hidden = torch.zeros(1, 1, number, number)
    hidden[..., 0] = -torch.inf
    last.forward = partial(last.forward, attn_mask=hidden)
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        found = backbone(images)
        tokens, maps = stock.forward_intermediates(images, return_prefix_tokens=True)
    torch.testing.assert_close(found.id_conditions[:, 0], maps[0][1][:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.id_conditions[:, 1], maps[1][1][:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.identity, stock.fc_norm(tokens[:, 0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_prompt_changes_the_last_block_only_and_everything_learns(name):
    backbone = ViewPromptViT(small(name))
    images = torch.randn(2, 3, *SIZE)
    before = backbone(images)
    with torch.no_grad():
        backbone.view_prompt.normal_()
    after = backbone(images)
    assert torch.equal(before.id_conditions, after.id_conditions)
    assert not torch.allclose(before.identity, after.identity) and not torch.allclose(before.view, after.view)
    (after.identity.sum() + (after.view**2).sum()).backward()
    idle = {name for name, parameter in backbone.named_parameters() if parameter.grad is None}
    assert idle <= {"vit.norm.weight", "vit.norm.bias"} and backbone.layer_of("vit.blocks.1.norm1.weight") == 2
    assert {backbone.layer_of(name) for name, _ in backbone.named_parameters()} == {0, 1, 2, 3}


def encoder_of(**backbone):
    cfg = toys.stage1_cfg()
    options = {"STEM": "patch", "STRIDE_SIZE": (16, 16), "FEAT_DIM": 2048, **backbone}
    cfg.merge_from_list([word for key, value in options.items() for word in (f"MODEL.BACKBONE.{key}", value)])
    cfg.merge_from_list(["MODEL.HEADS.NUM_CLASSES", 4])
    return PersonEncoder(cfg)


def test_a_person_encoder_on_clip():
    encoder = encoder_of(NAME="build_clip_backbone", DEPTH="mini", CLIP_FEATURE="before", FREEZE_PATCH_EMBED=True)
    features = encoder.train()(toys.batch(4)["images"])
    assert features.identity.shape == (4, 192) and features.id_conditions.shape == (4, 5, 192)
    frozen = [name for name, parameter in encoder.backbone.named_parameters() if not parameter.requires_grad]
    assert frozen == ["vit.patch_embed.proj.weight"]


def test_a_person_encoder_on_a_vit_of_timm():
    encoder = encoder_of(**TIMM, TIMM_NAME="vit_tiny_patch16_224")
    assert encoder.eval()(toys.batch(2)["images"]).id_conditions.shape == (2, 11, 192)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"NAME": "build_clip_backbone", "CLIP_FEATURE": "both"}, "set MODEL.BACKBONE.CLIP_FEATURE before, got both"),
        ({"OUTPUT": "patches"}, "set MODEL.BACKBONE.OUTPUT class"),
        ({**TIMM, "TIMM_NAME": "resnet10t"}, "gives maps. Set .*class token"),
        ({**TIMM, "TIMM_NAME": "vit_pwee_patch16_reg1_gap_256"}, "gives maps. Set .*class token"),
    ],
)
def test_other_backbones_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        encoder_of(**options)


def test_other_backbones_stay_as_they_are():
    backbone = torch.nn.Linear(2, 2)
    assert with_view_prompt(backbone) is backbone


def test_the_prompt_is_put_into_clips_own_vit():
    cfg = toys.stage1_cfg()
    words = {"NAME": "build_clip_backbone", "CLIP_FEATURE": "before", "STEM": "patch", "STRIDE_SIZE": (16, 16)}
    cfg.merge_from_list([word for key, value in words.items() for word in (f"MODEL.BACKBONE.{key}", value)])
    clip = build_backbone(cfg)
    prompted = with_view_prompt(clip)
    assert isinstance(clip, ClipViT) and prompted.vit is clip.vit
