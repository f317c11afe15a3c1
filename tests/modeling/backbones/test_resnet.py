"""ResNets: torchvision's numbers, fast-reid's variations and names, and files of all three origins."""

import pytest
import torch
import torchvision

from fastreid.config import get_cfg
from fastreid.layers import IBN, GhostBatchNorm
from fastreid.modeling.backbones import build_backbone
from fastreid.utils.weights import WeightsError

IMAGES = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))


def resnet(depth="18x", name="build_resnet_backbone", **keys):
    torch.manual_seed(0)
    cfg = get_cfg()
    options = {"NAME": name, "DEPTH": depth, **keys}
    cfg.merge_from_list([word for key, value in options.items() for word in (f"MODEL.BACKBONE.{key}", value)])
    return build_backbone(cfg)


@pytest.mark.parametrize(
    ("depth", "name", "stock"),
    [
        ("18x", "build_resnet_backbone", torchvision.models.resnet18),
        ("34x", "build_resnet_backbone", torchvision.models.resnet34),
        ("50x", "build_resnet_backbone", torchvision.models.resnet50),
        ("101x", "build_resnet_backbone", torchvision.models.resnet101),
        ("50x", "build_resnext_backbone", torchvision.models.resnext50_32x4d),
    ],
)
def test_names_and_numbers_are_torchvisions(depth, name, stock, tmp_path, caplog):
    stock = stock(weights=None).eval()
    torch.save(stock.state_dict(), tmp_path / "stock.pth")
    with caplog.at_level("INFO"):
        ours = resnet(depth, name, LAST_STRIDE=2, PRETRAIN=True, PRETRAIN_PATH=str(tmp_path / "stock.pth")).eval()
    assert "100.0% of the backbone's values; missing: none; other shape: none" in caplog.text
    ours.maxpool = stock.maxpool  # fast-reid's has no border
    maps = ours(IMAGES)
    assert maps.shape == (2, ours.feature_dim, 2, 1)
    torch.testing.assert_close(stock.fc(maps.mean((2, 3))), stock(IMAGES), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth", ["18x", "50x"])
def test_a_last_stride_of_one_keeps_the_size_and_every_weight(depth):
    fine, coarse = resnet(depth), resnet(depth, LAST_STRIDE=2)
    assert fine(IMAGES).shape == (2, fine.feature_dim, 4, 2)
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (fine, coarse)]
    assert shapes[0] == shapes[1]


def test_ibn_is_in_the_first_norm_of_every_block_but_the_last_stages():
    model = resnet("50x", WITH_IBN=True)
    where = [name for name, module in model.named_modules() if isinstance(module, IBN)]
    assert where == [f"layer{stage + 1}.{i}.bn1" for stage, count in enumerate((3, 4, 6)) for i in range(count)]
    assert {"layer1.0.bn1.IN.weight", "layer1.0.bn1.BN.running_mean"} <= set(model.state_dict())


def test_non_local_blocks_come_after_the_last_blocks_of_two_stages():
    model, order = resnet("50x", WITH_NL=True).eval(), []
    for name, module in model.named_modules():
        parts = name.split(".")
        if len(parts) == 2 and parts[0].startswith(("layer", "NL_")):
            module.register_forward_hook(lambda *_, name=name: order.append(name))
    model(IMAGES)
    assert order[:3] == ["layer1.0", "layer1.1", "layer1.2"]
    assert order[3:9] == ["layer2.0", "layer2.1", "layer2.2", "NL_2.0", "layer2.3", "NL_2.1"]
    third = ["layer3.0", "layer3.1", "layer3.2", "layer3.3", "NL_3.0", "layer3.4", "NL_3.1", "layer3.5", "NL_3.2"]
    assert order[9:] == [*third, "layer4.0", "layer4.1", "layer4.2"]
    assert model.NL_2[0].g.in_channels == 512 and model.NL_3[0].g.in_channels == 1024


def test_squeeze_and_excitation_is_in_every_block_under_fast_reids_names():
    state = resnet("50x", WITH_SE=True).state_dict()
    assert {name for name in state if ".se." in name and name.endswith("0.weight")} == {
        f"layer{stage + 1}.{i}.se.fc.0.weight" for stage, count in enumerate((3, 4, 6, 3)) for i in range(count)
    }
    assert state["layer4.0.se.fc.0.weight"].shape == (128, 2048)


@pytest.mark.parametrize("norm", ["BN", "GhostBN", "GN", "FrozenBN"])
def test_the_norm_is_everywhere(norm):
    model = resnet("18x", NORM=norm, WITH_NL=True, **({"NORM_SPLIT": 2} if norm == "GhostBN" else {}))
    kinds = {type(module) for module in model.modules() if "Norm" in type(module).__name__}
    assert len(kinds) == 1
    ghosts = [module for module in model.modules() if isinstance(module, GhostBatchNorm)]
    assert len(ghosts) == (20 if norm == "GhostBN" else 0) and {g.num_splits for g in ghosts} <= {2}
    model.train()(IMAGES).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("prefix", ["", "module.", "backbone."], ids=["bare", "IBN-Net", "fast-reid"])
def test_files_with_ibn_and_all_their_spellings(prefix, tmp_path, caplog):
    keys = {"WITH_IBN": True, "WITH_NL": True}
    trained = resnet("50x", **keys)
    with torch.no_grad():
        trained.NL_2[0].W[1].weight.fill_(0.5)
    state = {f"{prefix}{name}": value for name, value in trained.state_dict().items()}
    state |= {f"{prefix.replace('backbone.', '')}fc.weight": torch.zeros(1000, 2048), "heads.weight": torch.zeros(3, 9)}
    torch.save({"state_dict": state}, tmp_path / "file.pth")
    with caplog.at_level("INFO"):
        read = resnet("50x", **keys, PRETRAIN=True, PRETRAIN_PATH=str(tmp_path / "file.pth"))
    assert "100.0%" in caplog.text and "left over in the file: none" in caplog.text
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], value)


def test_a_file_without_ibn_is_no_start_for_a_network_with_it(tmp_path):
    path = str(tmp_path / "plain.pth")
    torch.save(resnet("18x").state_dict(), path)
    with pytest.raises(WeightsError, match="without instance norms, but MODEL.BACKBONE.WITH_IBN is True"):
        resnet("18x", WITH_IBN=True, PRETRAIN=True, PRETRAIN_PATH=path)
    with pytest.raises(WeightsError, match=r"only \d+\.\d% of the backbone would be pretrained"):
        resnet("34x", PRETRAIN=True, PRETRAIN_PATH=path)
    with pytest.raises(WeightsError, match="PRETRAIN_PATH is empty"):
        resnet("18x", PRETRAIN=True)


def test_non_local_blocks_may_be_missing_in_a_file(tmp_path, caplog):
    torch.save(resnet("50x").state_dict(), tmp_path / "plain.pth")
    with caplog.at_level("INFO"):
        resnet("50x", WITH_NL=True, PRETRAIN=True, PRETRAIN_PATH=str(tmp_path / "plain.pth"))
    assert "missing: NL_2.0.W.0.bias" in caplog.text


def test_depths_of_parameters():
    model = resnet("50x", WITH_NL=True)
    depths = {"conv1.weight": 0, "bn1.bias": 0, "layer1.0.conv1.weight": 1, "layer2.0.conv1.weight": 4}
    depths |= {"layer3.5.bn2.weight": 13, "layer4.2.conv3.weight": 16, "NL_2.0.g.weight": 6, "NL_3.2.W.1.bias": 13}
    assert {name: model.layer_of(name) for name in depths} == depths
    assert {model.layer_of(name) for name, _ in model.named_parameters()} == set(range(17)) and model.num_layers == 16


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"depth": "x50"}, "Legal: 18x, 34x, 50x, 101x"),
        ({"depth": "152x", "name": "build_resnext_backbone"}, "Legal: 50x, 101x"),
        ({"LAST_STRIDE": 3}, "must be 1 or 2, got 3"),
        ({"FEAT_DIM": 768}, "FEAT_DIM is 768, but build_resnet_backbone with DEPTH '18x' gives 512"),
        ({"STEM": "conv"}, "builds a ResNet, so .*MODEL.BACKBONE.STEM='conv'"),
        ({"NORM": "bn"}, "did you mean 'BN'"),
    ],
)
def test_wrong_settings_are_explained(keys, message):
    with pytest.raises(KeyError, match=message):  # ConfigError and RegistryError are both one
        resnet(**keys)
