"""ViTs with and without the view prompt: what they emit, and how published weights are read."""

import pytest
import timm
import torch

from fastreid.config import ConfigError, get_cfg
from fastreid.modeling.backbones import ViewPromptViT, build_backbone
from fastreid.modeling.backbones.vit import fit_vit_names
from fastreid.utils.weights import WeightsError
from tests.modeling import toys


def cfg_of(depth="mini", size=(64, 32), **backbone):
    cfg = toys.stage1_cfg()
    cfg.merge_from_list(["INPUT.SIZE_TRAIN", list(size), "INPUT.SIZE_TEST", list(size)])
    options = {"DEPTH": depth, "STEM": "patch", "FEAT_DIM": 2048, "DROP_PATH_RATIO": 0.0, **backbone}
    cfg.merge_from_list([word for key, value in options.items() for word in (f"MODEL.BACKBONE.{key}", value)])
    return cfg


def prompted(*args, **keys):
    """The backbone of SD-ReID."""
    return ViewPromptViT(build_backbone(cfg_of(*args, **keys)))


def test_real_size_has_the_published_parameter_count():
    with torch.device("meta"):
        backbone = prompted("base", (256, 128))
    assert sum(p.numel() for p in backbone.parameters()) == 85_747_200


def test_shapes_and_the_view_prompt_before_the_last_block_only():
    backbone = prompted().eval()
    images = torch.randn(2, 3, 64, 32)
    before = backbone(images)
    assert before.identity.shape == before.view.shape == (2, 192)
    assert before.id_conditions.shape == (2, toys.NUM_BLOCKS - 1, 192)
    with torch.no_grad():
        backbone.view_prompt.normal_()
    after = backbone(images)
    torch.testing.assert_close(after.id_conditions, before.id_conditions, rtol=0, atol=0)
    assert not torch.allclose(after.identity, before.identity) and not torch.allclose(after.view, before.view)


def test_the_earlier_blocks_are_timms_own():
    """The class token after each block but the last is that of the stock model with the same weights."""
    backbone = prompted().eval()
    stock = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=(64, 32), depth=toys.NUM_BLOCKS).eval()
    stock.load_state_dict(backbone.vit.state_dict())
    images = torch.randn(2, 3, 64, 32)
    _, hidden = stock.forward_intermediates(images, return_prefix_tokens=True)
    expected = torch.stack([prefix[:, 0] for _, prefix in hidden[:-1]], dim=1)
    torch.testing.assert_close(backbone(images).id_conditions, expected)


def test_the_patches_are_a_map_of_the_tokens_after_the_class_token():
    whole, patches = (build_backbone(cfg_of(OUTPUT=output)).eval() for output in ("class", "patches"))
    patches.load_state_dict(whole.state_dict())
    images = torch.randn(2, 3, 64, 32)
    tokens = whole.forward_features(images)
    maps = patches(images)
    assert maps.shape == (2, 192, 4, 2)
    torch.testing.assert_close(maps[:, :, 1, 0], tokens[:, 3])  # row 1, column 0, behind the class token
    torch.testing.assert_close(whole(images)[..., 0, 0], tokens[:, 0])


@pytest.fixture
def published(tmp_path):
    """A file with the names and shapes of jx_vit_base_p16_224-80ecf9dd.pth at the width of "tiny"."""
    torch.manual_seed(3)
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    path = tmp_path / "jx_vit.pth"
    torch.save(vit.state_dict(), path)
    return path, vit


def test_published_names_load_and_the_position_table_is_resized_bilinearly(published, caplog):
    path, vit = published
    with caplog.at_level("INFO"):
        backbone = prompted("tiny", PRETRAIN=True, PRETRAIN_PATH=str(path))
    for name, value in vit.state_dict().items():
        if not name.startswith("head.") and name != "pos_embed":
            torch.testing.assert_close(backbone.vit.state_dict()[name], value)
    grid = vit.pos_embed[:, 1:].unflatten(1, (14, 14)).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(grid, (4, 2), mode="bilinear", align_corners=False)
    torch.testing.assert_close(backbone.vit.pos_embed[:, 1:], resized.flatten(2).transpose(1, 2))
    torch.testing.assert_close(backbone.vit.pos_embed[:, :1], vit.pos_embed[:, :1])
    assert "100.0% of the backbone" in caplog.text


def test_a_table_of_another_grid_is_resized_even_if_it_has_as_many_patches():
    backbone = build_backbone(cfg_of("tiny", (64, 64)))
    tall = build_backbone(cfg_of("tiny", (128, 32)))
    state = fit_vit_names(tall, backbone.state_dict())
    assert state["pos_embed"].shape == tall.pos_embed.shape
    assert not torch.equal(state["pos_embed"], backbone.pos_embed)
    half = build_backbone(cfg_of("tiny", (128, 64)))  # 8 x 4, twice as high as wide
    assert fit_vit_names(half, half.state_dict())["pos_embed"] is not None
    assert fit_vit_names(tall, half.state_dict())["pos_embed"].shape == tall.pos_embed.shape


def test_too_little_coverage_is_an_error_that_says_what_matched(published):
    path, vit = published
    state = {name: value for name, value in vit.state_dict().items() if not name.startswith("blocks.1")}
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"only \d+\.\d% of the backbone would be pretrained.*missing: blocks\.1\."):
        build_backbone(cfg_of("tiny", PRETRAIN=True, PRETRAIN_PATH=str(path)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match="no file.*absent.pth"):
        build_backbone(cfg_of(PRETRAIN=True, PRETRAIN_PATH=str(tmp_path / "absent.pth")))


def test_overlapping_patches_and_conv_stem():
    overlapping = build_backbone(cfg_of(STRIDE_SIZE=(12, 12)))
    assert overlapping.patch_embed.grid_size == (5, 2)
    stem = prompted(STEM="conv", STRIDE_SIZE=(8, 8)).eval()
    assert stem.vit.patch_embed.grid_size == (8, 4)
    assert stem(torch.randn(1, 3, 64, 32)).identity.shape == (1, 192)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": "bas"}, "did you mean 'base'"),
        ({"STEM": "cnov"}, "did you mean 'conv'"),
        ({"FEAT_DIM": 768}, "FEAT_DIM is 768.*gives 192"),
        ({"WITH_IBN": True, "LAST_STRIDE": 2}, "LAST_STRIDE=2 .*, MODEL.BACKBONE.WITH_IBN=True"),
        ({"STEM": "conv", "STRIDE_SIZE": (12, 12)}, "STRIDE_SIZE"),
    ],
)
def test_wrong_settings_are_explained(options, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        build_backbone(cfg_of(**options))


def test_one_size_for_training_and_test():
    cfg = cfg_of()
    cfg.INPUT.SIZE_TEST = [128, 64]
    with pytest.raises(ConfigError, match="SIZE_TEST .* must equal"):
        build_backbone(cfg)


def test_an_unknown_backbone_lists_what_there_is():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_vit"
    with pytest.raises(KeyError, match="did you mean 'build_vit_backbone'"):
        build_backbone(cfg)


def test_without_the_prompt_it_is_timms_own_and_gives_the_class_token_as_a_map():
    torch.manual_seed(4)
    plain = build_backbone(cfg_of("tiny")).eval()
    torch.manual_seed(4)
    stock = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=(64, 32)).eval()
    assert plain.state_dict().keys() == stock.state_dict().keys()  # fast-reid's names
    images = torch.randn(2, 3, 64, 32)
    assert torch.equal(plain(images), stock(images)[..., None, None])  # the same random weights, too
    assert plain.feature_dim == 192


def test_depths_of_parameters():
    depths = {"cls_token": 0, "pos_embed": 0, "patch_embed.proj.weight": 0, "blocks.0.norm1.bias": 1}
    depths |= {"blocks.5.mlp.fc1.weight": 6, "norm.weight": 6}
    plain, with_prompt = build_backbone(cfg_of()), prompted()
    assert {name: plain.layer_of(name) for name in depths} == depths and plain.num_layers == 6
    assert {name: with_prompt.layer_of(f"vit.{name}") for name in depths} == depths
    assert (with_prompt.layer_of("view_prompt"), with_prompt.num_layers) == (6, 6)
    assert {with_prompt.layer_of(name) for name, _ in with_prompt.named_parameters()} == set(range(7))
