"""CLIP's image encoder: its features are those of transformers, whatever names its weights have."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from fastreid.config import ConfigError
from fastreid.modeling.backbones import build_backbone
from fastreid.modeling.backbones.clip import tower_of
from fastreid.modeling.backbones.clip_names import fit_clip_names
from fastreid.modeling.backbones.vit import fit_positions
from fastreid.modeling.model import build_model
from fastreid.utils.weights import WeightsError
from tests.modeling import toys

GOLDEN = Path(__file__).parents[2] / "golden/clip_positions.npz"
WIDTH, PROJECTED, BLOCKS, SIDE = 192, 128, 6, 64


def cfg_of(size=(64, 64), **backbone):
    cfg = toys.stage1_cfg()
    options = {"NAME": "build_clip_backbone", "DEPTH": "mini", "STEM": "patch", "STRIDE_SIZE": (16, 16), **backbone}
    options = {"FEAT_DIM": 2048, "DROP_PATH_RATIO": 0.0} | options
    words = [word for key, value in options.items() for word in (f"MODEL.BACKBONE.{key}", value)]
    cfg.merge_from_list(["INPUT.SIZE_TRAIN", list(size), "INPUT.SIZE_TEST", list(size), *words])
    return cfg


def pretrained(path, **backbone):
    return build_backbone(cfg_of(PRETRAIN=True, PRETRAIN_PATH=str(path), **backbone)).eval()


@pytest.fixture(scope="module")
def published():
    """A CLIP of transformers in the shape of "mini", with random weights that float16 can hold, no two alike."""
    torch.manual_seed(1)
    vision = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": BLOCKS}
    vision |= {"num_attention_heads": 3, "image_size": SIDE, "patch_size": 16, "hidden_act": "quick_gelu"}
    vision |= {"projection_dim": PROJECTED}
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text | {"vocab_size": 50}, projection_dim=PROJECTED))
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.normal_(std=0.1).copy_(parameter.half())
    return clip.eval()


@pytest.fixture(scope="module")
def vision(published):
    """Its image encoder."""
    model = CLIPVisionModelWithProjection(published.config.vision_config).eval()
    model.load_state_dict({name: value for name, value in published.state_dict().items() if name in model.state_dict()})
    return model


def images_of(size=(SIDE, SIDE), number=2):
    return torch.randn(number, 3, *size, generator=torch.Generator().manual_seed(5))


def openai_state(clip, blocks=BLOCKS):
    """The weights under the names of OpenAI and open_clip, written block by block."""
    theirs = clip.state_dict()
    state = {"visual.class_embedding": theirs["vision_model.embeddings.class_embedding"]}
    state["visual.positional_embedding"] = theirs["vision_model.embeddings.position_embedding.weight"]
    state["visual.conv1.weight"] = theirs["vision_model.embeddings.patch_embedding.weight"]
    state["visual.proj"] = theirs["visual_projection.weight"].T.contiguous()
    for end in ("weight", "bias"):
        state[f"visual.ln_pre.{end}"] = theirs[f"vision_model.pre_layrnorm.{end}"]
        state[f"visual.ln_post.{end}"] = theirs[f"vision_model.post_layernorm.{end}"]
        for block in range(blocks):
            old, new = f"vision_model.encoder.layers.{block}", f"visual.transformer.resblocks.{block}"
            joined = torch.cat([theirs[f"{old}.self_attn.{part}_proj.{end}"] for part in "qkv"])
            state[f"{new}.attn.in_proj_{end}"] = joined
            state[f"{new}.attn.out_proj.{end}"] = theirs[f"{old}.self_attn.out_proj.{end}"]
            state[f"{new}.ln_1.{end}"] = theirs[f"{old}.layer_norm1.{end}"]
            state[f"{new}.ln_2.{end}"] = theirs[f"{old}.layer_norm2.{end}"]
            state[f"{new}.mlp.c_fc.{end}"] = theirs[f"{old}.mlp.fc1.{end}"]
            state[f"{new}.mlp.c_proj.{end}"] = theirs[f"{old}.mlp.fc2.{end}"]
    # Of the text encoder, whose names end as those of the images.
    state["transformer.resblocks.0.ln_1.weight"], state["positional_embedding"] = torch.ones(32), torch.ones(77, 32)
    state["text_projection"], state["logit_scale"] = torch.ones(32, PROJECTED), torch.ones(())
    return state


def timm_state(clip, prefix=""):
    """The weights under the names of timm, whose head has a bias of zeros; open_clip puts its head elsewhere."""
    vit = build_backbone(cfg_of()).vit
    vit.load_state_dict(fit_clip_names(vit, openai_state(clip)))
    head = "visual.head.proj." if prefix else "head."
    state = {f"{prefix}{name}".replace(f"{prefix}head.", head): value for name, value in vit.state_dict().items()}
    return state | {f"{head}bias": torch.zeros(PROJECTED)}


def save_archive(state, path):
    """Write a TorchScript archive whose modules have these names, as OpenAI's."""
    root = nn.Module()
    for name, value in state.items():
        *parts, last = name.split(".")
        module = root
        for part in parts:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        module.register_parameter(last, nn.Parameter(value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will replace it
        torch.jit.save(torch.jit.script(root), path)


@pytest.fixture(
    params=[
        "archive",
        "openai",
        "half",
        "open_clip",
        "hugging_face",
        "safetensors",
        "folder",
        "timm",
        "trunk",
        "wrapped",
    ]
)
def weights_file(request, published, vision, tmp_path):
    """One set of weights under one of the namings."""
    path = tmp_path / "weights.bin"
    if request.param in ("safetensors", "folder"):
        vision.save_pretrained(tmp_path)
        return tmp_path / "model.safetensors" if request.param == "safetensors" else tmp_path
    if request.param == "archive":
        save_archive({name: value.half() for name, value in openai_state(published).items()}, path)
        return path
    state = {
        "openai": openai_state,
        "half": lambda clip: {name: value.half() for name, value in openai_state(clip).items()},
        "open_clip": lambda clip: {"state_dict": {f"module.{k}": v for k, v in openai_state(clip).items()}},
        "hugging_face": lambda clip: clip.state_dict(),
        "timm": timm_state,
        "trunk": lambda clip: timm_state(clip, "visual.trunk."),
        "wrapped": lambda clip: {f"clip.model.{name}": value for name, value in openai_state(clip).items()},
    }[request.param](published)
    torch.save(state, path)
    return path


def test_every_naming_gives_the_features_of_transformers(vision, weights_file, caplog):
    caplog.set_level("INFO", logger="fastreid")
    backbone = pretrained(weights_file, CLIP_FEATURE="both")
    images = images_of()
    with torch.no_grad():
        token = vision.vision_model(pixel_values=images).pooler_output
        expected = torch.cat([token, vision(pixel_values=images).image_embeds], dim=1)
        found = backbone(images)
    assert found.shape == (2, WIDTH + PROJECTED, 1, 1)
    torch.testing.assert_close(found[..., 0, 0], expected, rtol=1e-5, atol=1e-5)
    assert "100.0% of the backbone's values" in caplog.text and "left over in the file: none" in caplog.text


@pytest.mark.slow
def test_the_published_size_gives_the_features_of_transformers(tmp_path):
    """ViT-B/16 at 224x224 in an archive of float16, as OpenAI publishes it."""
    torch.manual_seed(6)
    vision = CLIPVisionModelWithProjection(CLIPVisionConfig(patch_size=16, projection_dim=512)).eval()
    with torch.no_grad():
        for parameter in vision.parameters():
            parameter.copy_(parameter.half())
    save_archive({name: value.half() for name, value in openai_state(vision, blocks=12).items()}, tmp_path / "x.pt")
    images = images_of((224, 224))
    with torch.no_grad():
        expected = vision(pixel_values=images).image_embeds
        found = pretrained(tmp_path / "x.pt", DEPTH="base", size=(224, 224))(images)[..., 0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_features_before_and_after_the_projection(published, tmp_path):
    torch.save(openai_state(published), tmp_path / "x.pt")
    before, after, both = (pretrained(tmp_path / "x.pt", CLIP_FEATURE=name) for name in ("before", "after", "both"))
    images = images_of()
    assert (before.feature_dim, after.feature_dim, both.feature_dim) == (WIDTH, PROJECTED, WIDTH + PROJECTED)
    assert torch.equal(torch.cat([before(images), after(images)], dim=1), both(images))
    expected = before(images)[..., 0, 0] @ openai_state(published)["visual.proj"]
    torch.testing.assert_close(after(images)[..., 0, 0], expected, rtol=1e-5, atol=1e-5)
    assert "head.weight" not in before.vit.state_dict() and "head.bias" not in after.vit.state_dict()


def test_the_published_size():
    with torch.device("meta"):
        backbone = build_backbone(cfg_of((256, 128), DEPTH="base", CLIP_FEATURE="both"))
    assert backbone.feature_dim == 1280
    shapes = {name: tuple(value.shape) for name, value in backbone.vit.state_dict().items()}
    assert shapes["head.weight"] == (512, 768) and shapes["pos_embed"] == (1, 129, 768)
    # 86,192,640 of CLIP's ViT-B/16 at 224x224, less 68 positions.
    assert sum(p.numel() for p in backbone.parameters()) == 86_192_640 - 68 * 768


@pytest.mark.parametrize(
    ("depth", "name", "projected"),
    [
        ("base", "vit_base_patch16_clip_quickgelu_224", 512),
        ("vit_base_patch16_clip_224", "vit_base_patch16_clip_224", 512),
        ("vit_large_patch14_clip_224", "vit_large_patch14_clip_224", 768),
        ("vit_base_patch16_clip_384", "vit_base_patch16_clip_384", 0),
    ],
)
def test_other_towers_by_the_names_of_timm(depth, name, projected):
    tower = tower_of(depth)
    assert (tower.timm_name, tower.projected_dim) == (name, projected)


def test_positions_are_resized_as_in_the_original():
    golden = np.load(GOLDEN)
    vit = build_backbone(cfg_of((256, 128))).vit
    resized = fit_positions(vit, {"pos_embed": torch.from_numpy(golden["table14"])[None]})["pos_embed"]
    np.testing.assert_allclose(resized[0].numpy(), golden["table16x8"], atol=1e-6)


@pytest.mark.parametrize(("size", "stride", "grid"), [((96, 32), (16, 16), (6, 2)), ((64, 64), (12, 12), (5, 5))])
def test_other_sizes_and_overlapping_patches(published, tmp_path, size, stride, grid):
    torch.save(openai_state(published), tmp_path / "x.pt")
    backbone = pretrained(tmp_path / "x.pt", size=size, STRIDE_SIZE=stride)
    assert backbone(images_of(size)).shape == (2, PROJECTED, 1, 1)
    table = openai_state(published)["visual.positional_embedding"]
    expected = interpolate(table[1:].T.reshape(1, WIDTH, 4, 4), grid, mode="bilinear", align_corners=False)
    torch.testing.assert_close(backbone.vit.pos_embed[0, 1:].T, expected.flatten(2)[0])
    torch.testing.assert_close(backbone.vit.pos_embed[0, 0], table[0])


@pytest.mark.parametrize("frozen", [False, True])
def test_a_frozen_patch_embedding_keeps_its_values_in_training(frozen):
    cfg = cfg_of((64, 32), FREEZE_PATCH_EMBED=frozen, CLIP_FEATURE="both")
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "Baseline", "MODEL.HEADS.NUM_CLASSES", 4])
    model = build_model(cfg)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sum(model(toys.batch(8)).values()).backward()
    optimizer.step()
    still = {name for name, value in model.named_parameters() if torch.equal(value, before[name])}
    patches = {"backbone.vit.patch_embed.proj.weight"}
    assert {name for name in still if "backbone" in name} == (patches if frozen else set())


def test_depths_of_parameters():
    backbone = build_backbone(cfg_of())
    depths = {"cls_token": 0, "norm_pre.weight": 0, "blocks.0.norm1.bias": 1, "blocks.5.mlp.fc1.weight": 6}
    depths |= {"norm.bias": 6, "head.weight": 6}
    assert {name: backbone.layer_of(f"vit.{name}") for name in depths} == depths and backbone.num_layers == 6


def test_a_file_without_the_projection_is_refused_where_it_is_used(published, tmp_path):
    state = {name: value for name, value in openai_state(published).items() if name != "visual.proj"}
    torch.save(state, tmp_path / "x.pt")
    assert pretrained(tmp_path / "x.pt", CLIP_FEATURE="before").feature_dim == WIDTH
    with pytest.raises(WeightsError, match=r"head\.weight would stay random.*missing: head\.weight"):
        pretrained(tmp_path / "x.pt", CLIP_FEATURE="after")


def test_too_little_coverage_says_what_is_missing(published, tmp_path):
    state = {name: value for name, value in openai_state(published).items() if "resblocks.3" not in name}
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"only \d+\.\d% of the backbone would be pretrained.*missing: blocks\.3\."):
        pretrained(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"DEPTH": "bse"}, "did you mean 'base'"),
        ({"DEPTH": "vit_base_patch16_clip_22"}, "did you mean 'vit_base_patch16_clip_224'"),
        ({"CLIP_FEATURE": "befor"}, "did you mean 'before'"),
        ({"DEPTH": "vit_base_patch16_clip_384"}, "timm knows no projection of vit_base_patch16_clip_384"),
        ({"STRIDE_SIZE": (16, 20)}, r"leaves out pixels .* set it to \[16, 16\]"),
        ({"STEM": "conv"}, "MODEL.BACKBONE.STEM"),
        ({"FEAT_DIM": 768}, "FEAT_DIM is 768.*gives 128"),
    ],
)
def test_wrong_settings_are_explained(options, message):
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        build_backbone(cfg_of(**options))


def test_one_size_for_training_and_test():
    cfg = cfg_of()
    cfg.INPUT.SIZE_TEST = [128, 64]
    with pytest.raises(ConfigError, match="SIZE_TEST .* must equal"):
        build_backbone(cfg)
