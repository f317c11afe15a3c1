"""Checkpoints of the SD-ReID release: names and shapes as it writes them, values at random, results by hand."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.config import get_cfg
from fastreid.methods.sd_reid.conditioning import ConditionLearner
from fastreid.methods.sd_reid.release import from_release
from fastreid.methods.sd_reid.release_config import RELEASED
from fastreid.methods.sd_reid.view_refined_decoder import ViewRefinedDecoder
from fastreid.modeling import build_model
from fastreid.modeling.diffusion import LatentShape
from fastreid.utils.checkpoint import WeightsError, load_weights
from tests.miniature import ROOT
from tests.modeling.toys import FEATURE_DIM, NUM_BLOCKS, NUM_VIEWS, batch, stage1_cfg, stage2_cfg


@dataclass(frozen=True)
class Shape:
    """What the sizes in a released checkpoint follow from."""

    dim: int
    blocks: int
    heads: int
    patches: int
    widths: tuple[int, ...]


SMALL = Shape(FEATURE_DIM, NUM_BLOCKS, heads=3, patches=4 * 2, widths=(32, 32))
TRUE = Shape(768, 12, heads=12, patches=16 * 8, widths=(320, 640, 1280))
D, WIDTHS, HEADS = SMALL.dim, SMALL.widths, SMALL.heads


def bare(cfg):
    """The release has no convolutional stem."""
    cfg.merge_from_list(["MODEL.BACKBONE.STEM", "patch"])
    return cfg


def vit_names(shape: Shape) -> dict[str, tuple[int, ...]]:
    dim = shape.dim
    names = {
        "cls_token": (1, 1, dim), "pos_embed": (1, shape.patches + 1, dim), "view_prompt": (1, 1, dim),
        "patch_embed.proj.weight": (dim, 3, 16, 16), "patch_embed.proj.bias": (dim,),
        "norm.weight": (dim,), "norm.bias": (dim,),
    }  # fmt: skip
    for i in range(shape.blocks):
        for name, size in {
            "norm1.weight": (dim,), "norm1.bias": (dim,), "norm2.weight": (dim,), "norm2.bias": (dim,),
            "attn.qkv.weight": (3 * dim, dim), "attn.qkv.bias": (3 * dim,),
            "attn.proj.weight": (dim, dim), "attn.proj.bias": (dim,),
            "mlp.fc1.weight": (4 * dim, dim), "mlp.fc1.bias": (4 * dim,),
            "mlp.fc2.weight": (dim, 4 * dim), "mlp.fc2.bias": (dim,),
        }.items():  # fmt: skip
            names[f"blocks.{i}.{name}"] = size
    return {f"backbone.{name}": size for name, size in names.items()}


def head_names(prefix: str, classes: int, dim: int) -> dict[str, tuple[int, ...]]:
    bn = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (dim,))
    return {f"{prefix}.weight": (classes, dim), **{f"{prefix}.bottleneck.0.{name}": size for name, size in bn.items()}}


def learner_names(shape: Shape) -> dict[str, tuple[int, ...]]:
    dim = shape.dim
    block = {
        "attn.in_proj_weight": (3 * dim, dim), "attn.in_proj_bias": (3 * dim,), "attn.out_proj.weight": (dim, dim),
        "attn.out_proj.bias": (dim,), "ln_1.weight": (dim,), "ln_1.bias": (dim,), "ln_2.weight": (dim,),
        "ln_2.bias": (dim,), "mlp.c_fc.weight": (4 * dim, dim), "mlp.c_fc.bias": (4 * dim,),
        "mlp.c_proj.weight": (dim, 4 * dim), "mlp.c_proj.bias": (dim,),
    }  # fmt: skip
    names = {"learnable_vector": (1, shape.blocks, dim)}
    names |= {f"transformer.resblocks.0.{name}": size for name, size in block.items()}
    for i, width in enumerate((*shape.widths, *shape.widths)):
        kernel = 2 << (i % len(shape.widths))
        names |= {f"convs.{i}.weight": (width, 1, kernel, kernel), f"convs.{i}.bias": (width,)}
    return {f"condition_learner.{name}": size for name, size in names.items()}


def random_state(names: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    state = {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in names.items()}
    for name in list(state):
        if name.endswith("running_var"):
            state[name] = state[name].abs() + 0.5
            state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    return state


def stage1_state(classes: int = 5, shape: Shape = SMALL) -> dict[str, Tensor]:
    heads = head_names("heads", classes, shape.dim) | head_names("view_heads", NUM_VIEWS, shape.dim)
    centres = {f"mm.view_centers.{i}": (shape.dim,) for i in range(NUM_VIEWS)}
    return random_state(vit_names(shape) | heads | centres)


def stage2_state(assets) -> dict[str, Tensor]:
    unet = build_model(bare(stage2_cfg(assets)), num_classes=5).denoiser.unet.state_dict()
    generator = torch.Generator().manual_seed(4)
    unet = {name: 0.05 * torch.randn(value.shape, generator=generator) for name, value in unet.items()}
    state = stage1_state() | random_state(learner_names(SMALL))
    state |= {f"unet.model.{name}": value for name, value in unet.items()}
    return state | {f"inverse_sampling.unet.{name}": value for name, value in unet.items()}


def save(state: dict[str, Tensor], path, *, distributed: bool = False):
    prefix = "module." if distributed else ""
    content = {"model": {prefix + name: value for name, value in state.items()}, "epoch": 119, "metric": 0.5}
    torch.save(content, path)
    return path


def by_hand(state: dict[str, Tensor], images: Tensor, shape: Shape = SMALL) -> tuple[Tensor, Tensor, Tensor]:
    """Identity vectors, view tokens and identity conditions of the released ViT, written out."""
    dim, heads = shape.dim, shape.heads

    def norm(x, name):
        return F.layer_norm(x, (dim,), state[f"backbone.{name}.weight"], state[f"backbone.{name}.bias"], 1e-6)

    def linear(x, name):
        return F.linear(x, state[f"backbone.{name}.weight"], state[f"backbone.{name}.bias"])

    def block(x, i):
        b, n, _ = x.shape
        qkv = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").reshape(b, n, 3, heads, dim // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / (dim // heads) ** 0.5).softmax(-1)
        x = x + linear((weights @ v).transpose(1, 2).reshape(b, n, dim), f"blocks.{i}.attn.proj")
        hidden = F.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
        return x + linear(hidden, f"blocks.{i}.mlp.fc2")

    weight, bias = state["backbone.patch_embed.proj.weight"], state["backbone.patch_embed.proj.bias"]
    x = F.conv2d((images - 127.5) / 127.5, weight, bias, stride=16).flatten(2).transpose(1, 2)
    x = torch.cat([state["backbone.cls_token"].expand(len(x), -1, -1), x], 1) + state["backbone.pos_embed"]
    conditions = []
    for i in range(shape.blocks - 1):
        x = block(x, i)
        conditions.append(x[:, 0])
    x = block(torch.cat([state["backbone.view_prompt"].expand(len(x), -1, -1), x], 1), shape.blocks - 1)
    return norm(x[:, 1], "norm"), x[:, 0], torch.stack(conditions, 1)


def neck_by_hand(state, identity):
    parts = (state[f"heads.bottleneck.0.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(identity, *parts, eps=1e-5)


@pytest.mark.parametrize("distributed", [False, True])
def test_a_released_stage1_computes_here_what_it_computes_there(tmp_path, distributed):
    state = stage1_state()
    model = build_model(bare(stage1_cfg()), num_classes=5).eval()
    report = load_weights(model, save(state, tmp_path / "s1.pth", distributed=distributed), to_evaluate=True)
    assert report.clean and not report.absent_parts and not report.dropped_classifiers
    images = batch()["images"]
    with torch.no_grad():
        found, features = model({"images": images}), model.person(images)
    identity, view, conditions = by_hand(state, images)
    torch.testing.assert_close(features.identity, identity, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.view, view, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.id_conditions, conditions, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, neck_by_hand(state, identity), rtol=1e-4, atol=1e-4)
    assert torch.equal(model.person.memory.centres[1], state["mm.view_centers.1"]) and model.person.memory.seen.all()


def test_the_true_size():
    """ViT-B/16, 12 tokens, three levels: every name finds its place, and stage 1 computes what it computes there."""
    cfg = get_cfg()
    cfg.merge_from_file(str(ROOT / "configs/CARGO/base_stage1.yml"))
    cfg.merge_from_list(["MODEL.BACKBONE.PRETRAIN", False, "MODEL.DEVICE", "cpu"])
    model = build_model(cfg, num_classes=2500).eval()
    state = stage1_state(2500, TRUE)
    model.load_state_dict(from_release(state))  # strictly
    images = torch.rand(1, 3, 256, 128, generator=torch.Generator().manual_seed(0)) * 255
    identity, _, conditions = by_hand(state, images, TRUE)
    with torch.no_grad():
        torch.testing.assert_close(model({"images": images}), neck_by_hand(state, identity), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(model.person(images).id_conditions, conditions, rtol=1e-3, atol=1e-4)

    parts = from_release(state | random_state(learner_names(TRUE)))
    modules = {
        "condition_learner.": ConditionLearner(num_tokens=12, dim=768, depth=1, num_heads=12),
        "view_decoder.": ViewRefinedDecoder(LatentShape.of(768), list(TRUE.widths)),
    }
    for prefix, module in modules.items():
        module.load_state_dict({n.removeprefix(prefix): v for n, v in parts.items() if n.startswith(prefix)})


def released(assets):
    cfg = bare(stage2_cfg(assets))
    cfg.merge_from_file(RELEASED)
    cfg.merge_from_list(["MODEL.SDMODEL.CON_LEARNER_CONFIG.HEADS", 3])
    return cfg


def test_a_released_stage2_fills_everything_and_conditions_as_there(assets, tmp_path):
    state = stage2_state(assets)
    model = build_model(released(assets), num_classes=5).eval()
    report = load_weights(model, save(state, tmp_path / "s2.pth", distributed=True), to_evaluate=True)
    assert report.clean and not report.absent_parts, str(report)

    tokens, view = torch.randn(2, NUM_BLOCKS - 1, D), state["mm.view_centers.0"].expand(2, D)
    with torch.no_grad():
        condition = model.condition(tokens, view, view)
        descriptor = model(batch(2))
    torch.testing.assert_close(condition.tokens, learner_by_hand(state, tokens, view), rtol=1e-4, atol=1e-5)
    picture = view.reshape(2, 1, 16, 12)
    for i, found in enumerate(condition.control.down):
        weight, bias = (state[f"condition_learner.convs.{i}.{name}"] for name in ("weight", "bias"))
        expected = F.conv2d(picture, weight, bias, stride=weight.shape[-1])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    up = model.view_decoder.up[0].weight
    assert torch.equal(up, state[f"condition_learner.convs.{len(WIDTHS)}.weight"])
    assert torch.equal(model.condition_learner.null, state["condition_learner.learnable_vector"][0])
    assert all(torch.equal(v, state[f"unet.model.{n}"]) for n, v in model.denoiser.unet.state_dict().items())
    # As released: the neck feature, then a generated one per view, as they are.
    identity = by_hand(state, batch(2)["images"])[0]
    torch.testing.assert_close(descriptor[:, :D], neck_by_hand(state, identity), rtol=1e-4, atol=1e-4)
    assert descriptor.shape == (2, 3 * D)


def learner_by_hand(state: dict[str, Tensor], id_conditions: Tensor, view: Tensor) -> Tensor:
    """CLIP's residual attention block, with torch's own attention."""
    at = {n.removeprefix("condition_learner.transformer.resblocks.0."): v for n, v in state.items()}
    attention = nn.MultiheadAttention(D, HEADS, batch_first=True)
    attention.load_state_dict({n.removeprefix("attn."): v for n, v in at.items() if n.startswith("attn.")})
    x = torch.cat([id_conditions, view[:, None]], 1)
    y = F.layer_norm(x, (D,), at["ln_1.weight"], at["ln_1.bias"])
    x = x + attention(y, y, y, need_weights=False)[0]
    y = F.layer_norm(x, (D,), at["ln_2.weight"], at["ln_2.bias"])
    hidden = F.linear(y, at["mlp.c_fc.weight"], at["mlp.c_fc.bias"])
    return (
        x + F.linear(hidden * torch.sigmoid(1.702 * hidden), at["mlp.c_proj.weight"], at["mlp.c_proj.bias"])
    ).detach()


def test_stage2_starts_from_a_released_stage1_of_another_number_of_people(assets, tmp_path):
    model = build_model(bare(stage2_cfg(assets)), num_classes=9)
    report = load_weights(model, save(stage1_state(classes=5), tmp_path / "s1.pth"), to_train=True)
    assert report.dropped_classifiers == [f"person.identity_head.classifier.weight: file [5, {D}], model [9, {D}]"]
    assert not report.mismatched and not report.missing and not report.unexpected


def test_what_has_no_place_is_listed_and_what_is_missing_is_an_error(tmp_path):
    state = stage1_state()
    state["extra.table"] = torch.zeros(2)
    model = build_model(bare(stage1_cfg()), num_classes=5)
    assert load_weights(model, save(state, tmp_path / "more.pth")).unexpected == ["extra.table"]
    del state["backbone.view_prompt"]
    with pytest.raises(WeightsError, match="lacks person.backbone.view_prompt"):
        load_weights(model, save(state, tmp_path / "less.pth"), to_evaluate=True)


def test_a_centre_that_was_never_set_is_not_seen():
    state = stage1_state()
    state["mm.view_centers.1"] = torch.zeros(D)
    assert from_release(state)["person.memory.seen"].tolist() == [True, False]


def test_own_checkpoints_pass_untouched():
    state = build_model(stage1_cfg(), num_classes=3).state_dict()
    assert from_release(state) is state
