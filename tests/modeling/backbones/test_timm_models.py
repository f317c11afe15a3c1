"""timm's models as backbones: maps or one token, no weight without use, fast-reid's names."""

import re

import pytest
import timm
import torch

from fastreid.config import ConfigError, get_cfg
from fastreid.modeling.backbones import BACKBONE_REGISTRY, build_backbone
from fastreid.modeling.backbones.families import FAMILIES
from fastreid.modeling.backbones.timm_models import build_timm_backbone
from fastreid.utils.weights import WeightsError

SIZE = [128, 64]


def backbone(name="build_timm_backbone", size=SIZE, **keys):
    torch.manual_seed(0)
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.SIZE_TRAIN", list(size), "INPUT.SIZE_TEST", list(size), "MODEL.BACKBONE.NAME", name])
    cfg.merge_from_list([word for key, value in keys.items() for word in (f"MODEL.BACKBONE.{key}", value)])
    return build_backbone(cfg)


def unused(model, size=SIZE):
    """Parameters that no gradient reaches: a run over several processes would wait for them for ever."""
    model.train()(torch.randn(2, 3, *size)).square().sum().backward()
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("convnext_atto", (320, 4, 2)),
        ("resnet26d", (2048, 4, 2)),
        ("swin_tiny_patch4_window7_224", (768, 4, 2)),  # channels come last inside
        ("vit_tiny_patch16_224", (192, 1, 1)),
        ("deit3_small_patch16_224", (384, 1, 1)),
        ("efficientvit_b0", (1280, 1, 1)),  # cannot do without its pooling
    ],
)
def test_any_of_timms_models(name, shape):
    model = backbone(TIMM_NAME=name)
    assert model(torch.randn(2, 3, *SIZE)).shape == (2, *shape) and model.feature_dim == shape[0]
    assert unused(model) == []
    depths = {model.layer_of(parameter) for parameter, _ in model.named_parameters()}
    assert min(depths) == 0 and max(depths) == model.num_layers > 3


# One of each family; (channels, height and width with LAST_STRIDE 1 at 128 x 64).
ONE_OF_EACH = {
    "build_resnest_backbone": ("50x", 2048),
    "build_mobilenetv2_backbone": ("0.35x", 1280),
    "build_mobilenetv3_backbone": ("small", 1024),  # "large" has its last stride in another stage
    "build_repvgg_backbone": ("A0", 1280),
    "build_regnet_backbone": ("200y", 368),
    "build_effnet_backbone": ("b0", 1280),
}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_fast_reids_other_backbones(name):
    depth, channels = ONE_OF_EACH[name]
    model = backbone(name, DEPTH=depth)
    fine = (4, 2) if name == "build_mobilenetv2_backbone" else (8, 4)  # fast-reid's does not read LAST_STRIDE
    assert model(torch.randn(2, 3, *SIZE)).shape == (2, channels, *fine)
    assert unused(model) == []
    depths = {model.layer_of(parameter) for parameter, _ in model.named_parameters()}
    assert min(depths) == 0 and max(depths) == model.num_layers > 3
    coarse = backbone(name, DEPTH=depth, LAST_STRIDE=2)
    assert coarse(torch.randn(2, 3, *SIZE)).shape == (2, channels, 4, 2)
    assert model.state_dict().keys() == coarse.state_dict().keys()


def test_the_last_stride_of_both_mobilenets():
    images = torch.randn(2, 3, *SIZE)
    assert backbone("build_mobilenetv3_backbone", DEPTH="large")(images).shape == (2, 1280, 8, 4)


def test_every_row_names_a_model_of_timms():
    assert [m for family in FAMILIES.values() for m in family.models.values() if not timm.is_model(m)] == []
    assert {name for name, family in FAMILIES.items() if family.models} == set(ONE_OF_EACH)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("build_mobilenetv2_backbone", {"DEPTH": "0.1x"}, r"unknown .*DEPTH '0.1x'.*timm lacks: 0.25x, 0.1x"),
        ("build_regnet_backbone", {"DEPTH": "200y", "WITH_IBN": True}, "as it is, but for the last stride"),
        ("build_timm_backbone", {"TIMM_NAME": "convnext_atoo"}, "none of timm's .* did you mean convnext_atto"),
        ("build_timm_backbone", {"TIMM_NAME": "convnext_atto", "LAST_STRIDE": 2}, "takes timm's model as it is, so"),
        ("build_timm_backbone", {"TIMM_NAME": "convnext_atto", "FEAT_DIM": 7}, "FEAT_DIM is 7.*gives 320"),
    ],
)
def test_what_there_is_not_is_explained(name, keys, message):
    with pytest.raises(KeyError, match=message):
        backbone(name, **keys)


def test_weights_come_from_a_local_file(tmp_path):
    stock = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    torch.save(stock.state_dict(), tmp_path / "file.pth")
    read = backbone(TIMM_NAME="vit_tiny_patch16_224", PRETRAIN=True, PRETRAIN_PATH=str(tmp_path / "file.pth"))
    assert torch.equal(read.model.blocks[0].attn.qkv.weight, stock.blocks[0].attn.qkv.weight)
    with pytest.raises(WeightsError, match="PRETRAIN is True but there is no file 'nowhere.pth'"):
        backbone(TIMM_NAME="vit_tiny_patch16_224", PRETRAIN=True, PRETRAIN_PATH="nowhere.pth")
    with pytest.raises(WeightsError, match="PRETRAIN is True but MODEL.BACKBONE.PRETRAIN_PATH is empty"):
        backbone(TIMM_NAME="vit_tiny_patch16_224", PRETRAIN=True)


SWIN = "swin_tiny_patch4_window7_224"


def test_a_file_with_other_names_is_read_in_the_order_of_its_tensors(tmp_path, caplog):
    """As a package has the weights of EfficientNet-Lite0."""
    name = "tf_efficientnet_lite0"
    state = timm.create_model(name, num_classes=5).state_dict()
    other = {f"_part{n}.{key.rpartition('.')[2]}": value + n for n, (key, value) in enumerate(state.items())}
    torch.save(other, tmp_path / "file.pth")
    keys = {"TIMM_NAME": name, "PRETRAIN": True, "PRETRAIN_PATH": str(tmp_path / "file.pth")}
    with caplog.at_level("INFO"):
        read = backbone(**keys).model.state_dict()
    assert "tensors are those of the model in the same order" in caplog.text
    given = dict(zip(state, other.values(), strict=True))
    assert all(torch.equal(value, given[key]) for key, value in read.items() if not key.endswith("tracked"))
    names = list(other)
    names[1], names[2] = names[2], names[1]  # weight and bias of the first batch norm, which have one shape
    torch.save({key: other[key] for key in names}, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match="only 0.0% of the backbone"):
        backbone(**keys)


def test_published_weights_of_swin_fill_all_of_it_at_the_size_of_people(tmp_path, caplog):
    stock = timm.create_model(SWIN, pretrained=False)
    state = {name: torch.randn_like(value) for name, value in stock.state_dict().items()}
    torch.save(state, tmp_path / "timm.pth")
    # Microsoft's file: a stage ends with the layer that reduces its maps, and has what follows from its windows.
    theirs = {re.sub(r"^layers\.(\d)\.down", lambda m: f"layers.{int(m[1]) - 1}.down", n): v for n, v in state.items()}
    theirs |= {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.int64)}
    torch.save({"model": theirs}, tmp_path / "microsoft.pth")
    names = ("timm", "microsoft")
    with caplog.at_level("INFO", "fastreid"):
        first, second = (
            backbone(TIMM_NAME=SWIN, size=(256, 128), PRETRAIN=True, PRETRAIN_PATH=str(tmp_path / f"{name}.pth"))
            for name in names
        )
    assert caplog.text.count("171 of 171 tensors matched") == 2 and "other shape: none" in caplog.text
    table = "layers.3.blocks.1.attn.relative_position_bias_table"  # its map is 8 x 4
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])
        if ".3.blocks" not in name or "table" not in name:
            assert torch.equal(value, state[name])
    resized = first.model.state_dict()[table].reshape(13, 7, 24)
    torch.testing.assert_close(resized[6, 3], state[table].reshape(13, 13, 24)[6, 6])  # no offset
    torch.save(first.state_dict(), tmp_path / "own.pth")
    again = backbone(TIMM_NAME=SWIN, size=(256, 128), PRETRAIN=True, PRETRAIN_PATH=str(tmp_path / "own.pth"))
    assert torch.equal(again.model.state_dict()[table], first.model.state_dict()[table])


def test_the_registry_has_fast_reids_names():
    kinds = "resnet resnext resnest osnet mobilenetv2 mobilenetv3 shufflenetv2 repvgg regnet effnet vit".split()
    assert {f"build_{kind}_backbone" for kind in kinds} <= set(BACKBONE_REGISTRY)


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        (
            [33, 32],
            [33, 32],
            r"test_vit cannot take images of height 33 and width 32 \(INPUT.SIZE_TRAIN\)",
        ),
        ([32, 32], [64, 32], r"INPUT.SIZE_TEST \[64, 32\] must equal SIZE_TRAIN \[32, 32\]"),
    ],
)
def test_sizes_that_a_model_cannot_take(train, test, said):
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.SIZE_TRAIN", train, "INPUT.SIZE_TEST", test, "MODEL.BACKBONE.TIMM_NAME", "test_vit"])
    with pytest.raises(ConfigError, match=said):
        build_timm_backbone(cfg)
