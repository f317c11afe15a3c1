"""ShuffleNetV2: sizes, names of the authors' program, the shuffle, files, and wrong keys."""

import pytest
import torch
import torchvision

from fastreid.config import ConfigError
from fastreid.modeling.backbones.shufflenet import ShuffleBlock
from tests.modeling.backbones.builders import built

IMAGES = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))


def shufflenet(depth="0.5x", **keys):
    return built(NAME="build_shufflenetv2_backbone", DEPTH=depth, **keys)


@pytest.mark.parametrize("depth", ["0.5x", "1.0x", "1.5x", "2.0x"])
def test_every_size(depth):
    """Its parameters are as many as torchvision's, which gives both branches of the first block the same width."""
    model = shufflenet(depth)
    theirs = getattr(torchvision.models, f"shufflenet_v2_x{depth[:-1].replace('.', '_')}")()
    counts = [
        sum(value.numel() for name, value in network.named_parameters() if not name.startswith(left_out))
        for network, left_out in ((model, "features.0."), (theirs, ("fc.", "stage2.0.")))
    ]
    assert counts[0] == counts[1]
    width = 2048 if depth == "2.0x" else 1024
    assert model(IMAGES).shape == (2, width, 2, 1) and model.feature_dim == width
    model(IMAGES).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert {model.layer_of(name) for name, _ in model.named_parameters()} == set(range(18))
    assert model.num_layers == 17 and model.layer_of("first_conv.0.weight") == 0


def test_names_are_those_of_the_authors():
    shapes = {name: tuple(value.shape) for name, value in shufflenet("1.0x").state_dict().items()}
    assert shapes["first_conv.0.weight"] == (24, 3, 3, 3) and shapes["conv_last.0.weight"] == (1024, 464, 1, 1)
    assert shapes["features.0.branch_proj.0.weight"] == (24, 1, 3, 3)
    assert shapes["features.0.branch_proj.2.weight"] == (24, 24, 1, 1)
    assert shapes["features.0.branch_main.5.weight"] == (116 - 24, 58, 1, 1)
    assert shapes["features.1.branch_main.3.weight"] == (58, 1, 3, 3)
    assert "features.15.branch_main.6.running_var" in shapes and "features.1.branch_proj.0.weight" not in shapes


def test_one_half_of_the_shuffled_channels_is_left_as_it_is():
    block = ShuffleBlock(8, 8, 1, norm="BN", num_splits=1).eval()
    maps = torch.randn(2, 8, 4, 4)
    found = block(maps)
    # As the authors write it: pairs of channels become two groups.
    groups = maps.reshape(2 * 4, 2, 16).permute(1, 0, 2).reshape(2, 2, 4, 4, 4)
    assert torch.equal(found[:, :4], groups[0])
    torch.testing.assert_close(found[:, 4:], block.branch_main(groups[1]))


def test_pretrained_files_of_the_authors_and_of_fast_reid(tmp_path):
    trained = shufflenet()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1)
    for wrapper, more in (("module.", {"module.classifier.0.weight": torch.zeros(1000, 1024)}), ("backbone.", {})):
        state = {f"{wrapper}{name}": value for name, value in trained.state_dict().items()} | more
        torch.save({"state_dict": state}, tmp_path / "file.pth")
        model = shufflenet(PRETRAIN=True, PRETRAIN_PATH=str(tmp_path / "file.pth"))
        assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.state_dict().items())


def test_wrong_keys():
    with pytest.raises(ConfigError, match="'3.0x'.*0.5x"):
        shufflenet("3.0x")
    with pytest.raises(ConfigError, match="builds a ShuffleNetV2.*WITH_IBN"):
        shufflenet(WITH_IBN=True)
