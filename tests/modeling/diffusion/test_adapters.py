"""LoRA adapters: names of layers, number of parameters, and their scale."""

import diffusers
import pytest
import torch

from fastreid.modeling.diffusion import OptionError
from fastreid.modeling.diffusion.adapters import add_lora, add_random_biases, lora_layers
from fastreid.modeling.diffusion.unet_assets import load_unet
from tests.methods.dcac.conftest import write_assets
from tools.make_assets import SD15_UNET

DCAC_SITES = ("attn1.qkvo", "attn2.qkvo", "ff.in")


def test_sites():
    assert lora_layers(["attn2.vo", "ff.out"]) == ["attn2.to_v", "attn2.to_out.0", "ff.net.2"]
    assert lora_layers(["attn1.q", "attn1.q"]) == ["attn1.to_q"]


@pytest.mark.parametrize("sites", [["attn1"], ["attn1.x"], ["ff"], ["to_q"]])
def test_unknown_sites_are_named(sites):
    with pytest.raises(OptionError, match=f"{sites[0]!r}; legal: attn1.qkvo"):
        lora_layers(sites)


@pytest.mark.parametrize(
    ("rank", "sites", "count"),
    [
        (8, DCAC_SITES, 2_492_928),
        (32, DCAC_SITES, 9_971_712),
        (8, (*DCAC_SITES, "ff.out"), 2_992_128),
        (32, (*DCAC_SITES, "ff.out"), 11_968_512),
    ],
)
def test_parameters_of_stable_diffusion_are_those_of_the_formula(rank, sites, count):
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**SD15_UNET)
        add_lora(unet, rank, lora_layers(sites), alpha=1.0)
    assert sum(p.numel() for p in unet.parameters() if p.requires_grad) == count


def test_biases_of_stable_diffusion_are_as_many_as_in_the_release():
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**SD15_UNET)
        before = sum(p.numel() for p in unet.parameters())
        add_lora(unet, 1, lora_layers(DCAC_SITES))
        adapters = sum(p.numel() for p in unet.parameters()) - before
    unet.to_empty(device="cpu")
    add_random_biases(unet, torch.Generator().manual_seed(0))
    assert sum(p.numel() for p in unet.parameters()) - before - adapters == 74_880


@pytest.fixture
def unet(tmp_path):
    return load_unet(str(write_assets(tmp_path)))


def test_biases_are_bounded_by_the_inputs(unet):
    add_lora(unet, 2, lora_layers(["attn1.qkv"]))
    add_random_biases(unet, torch.Generator().manual_seed(0))
    layer = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q.base_layer
    bound = layer.in_features**-0.5
    assert 0.5 * bound < float(layer.bias.abs().max()) <= bound and not layer.bias.requires_grad


def test_the_scale_is_alpha_over_rank(unet):
    add_lora(unet, 4, lora_layers(["attn1.q"]), alpha=1.0)
    layer = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q
    inputs = torch.randn(3, layer.in_features)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert torch.equal(layer(inputs), layer.base_layer(inputs))
    torch.nn.init.normal_(up)
    torch.testing.assert_close(layer(inputs), layer.base_layer(inputs) + inputs @ down.T @ up.T / 4)


def test_layers_that_a_unet_does_not_have(unet):
    with pytest.raises(OptionError, match="LoRA targets name attn9.to_q"):
        add_lora(unet, 2, ["attn9.to_q"])
