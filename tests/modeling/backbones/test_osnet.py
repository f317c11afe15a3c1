"""OSNet: all widths and variants, and files of torchreid and fast-reid."""

import pytest
import torch

from fastreid.modeling.backbones.osnet import OSNETS, OmniScaleBlock
from fastreid.utils.weights import WeightsError
from tests.modeling.backbones.builders import built

IMAGES = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))


def osnet(depth="x0_25", **keys):
    return built(NAME="build_osnet_backbone", DEPTH=depth, **keys)


@pytest.mark.parametrize(("depth", "channels"), [("x1_0", 512), ("x0_75", 384), ("x0_5", 256), ("x0_25", 128)])
@pytest.mark.parametrize("variant", ["", "ibn", "ain"])
def test_every_width_of_every_variant(depth, channels, variant):
    model = osnet(f"ain_{depth}" if variant == "ain" else depth, WITH_IBN=variant == "ibn")
    assert model(IMAGES).shape == (2, channels, 4, 2) and model.feature_dim == channels
    model(IMAGES).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    depths = {model.layer_of(name) for name, _ in model.named_parameters()}
    assert depths == set(range(7)) and model.num_layers == 6


def test_where_instance_norms_are():
    def where(model):
        blocks = {name: part for name, part in model.named_modules() if isinstance(part, OmniScaleBlock)}
        return [name for name, block in blocks.items() if block.IN is not None]

    assert where(osnet()) == []
    assert where(osnet(WITH_IBN=True)) == ["conv2.0", "conv2.1"]
    assert where(osnet("ain_x0_25")) == ["conv2.0", "conv2.1", "conv3.1", "conv4.0"]
    assert len(OSNETS) == 8


def torchreid_names(state):
    """The names of torchreid's OSNet-AIN, with its last layer and classifier."""
    letters = "abcd"
    named = {}
    for name, value in state.items():
        parts = name.split(".")
        for number, letter in enumerate(letters):
            if len(parts) > 2 and parts[2] == f"conv2{letter}":
                rest = parts[3:] if number else ["0", *parts[3:]]
                parts = [*parts[:2], "conv2", str(number), "layers", *rest]
        if parts[1:3] == ["2", "0"]:
            parts = [f"pool{parts[0][-1]}", "0", *parts[3:]]
        named[".".join(parts)] = value
    return named | {"fc.0.weight": torch.zeros(512, 128), "classifier.weight": torch.zeros(1000, 512)}


@pytest.mark.parametrize("depth", ["x0_25", "ain_x0_25"])
def test_files_of_torchreid(depth, tmp_path, caplog):
    trained = osnet(depth)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1)
    state = trained.state_dict() | {"fc.0.weight": torch.zeros(512, 128), "classifier.weight": torch.zeros(1000, 512)}
    if depth.startswith("ain"):
        state = torchreid_names(trained.state_dict())
        assert "conv2.0.conv2.3.layers.3.bn.weight" in state and "pool2.0.conv.weight" in state
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "file.pth")
    with caplog.at_level("INFO"):
        read = osnet(depth, PRETRAIN=True, PRETRAIN_PATH=str(tmp_path / "file.pth"))
    assert "100.0% of the backbone's values; missing: none" in caplog.text
    assert torch.equal(read.eval()(IMAGES), trained.eval()(IMAGES))


def test_a_file_of_another_variant_is_refused(tmp_path):
    path = str(tmp_path / "file.pth")
    torch.save(osnet(WITH_IBN=True).state_dict(), path)
    with pytest.raises(WeightsError, match=r"with instance norms in conv2.0, conv2.1, but this is an OSNet w"):
        osnet(PRETRAIN=True, PRETRAIN_PATH=path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"depth": "x1"}, "Legal: x1_0, x0_75, x0_5, x0_25, ain_x1_0"),
        ({"depth": "ain_x1_0", "WITH_IBN": True}, "has instance norms of its own"),
        ({"WITH_SE": True}, "builds an OSNet, so .*WITH_SE=True"),
    ],
)
def test_wrong_settings_are_explained(keys, message):
    with pytest.raises(KeyError, match=message):
        osnet(**keys)
