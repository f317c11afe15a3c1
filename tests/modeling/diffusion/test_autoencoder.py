"""The autoencoder: moments, latents, sizes, and what is wrong with a folder."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL

from fastreid.modeling.diffusion import AssetError, Autoencoder, OptionError
from tests.methods.dcac.conftest import write_assets


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_assets(tmp_path_factory.mktemp("pipeline"))


def test_moments_are_those_of_diffusers(folder):
    pictures = torch.rand(2, 3, 16, 32) * 2 - 1
    mine = Autoencoder.from_pretrained(str(folder))
    theirs = AutoencoderKL.from_pretrained(folder / "vae").eval().encode(pictures).latent_dist
    moments = mine.moments(pictures)
    assert moments.shape == (2, 8, 8, 16) and not moments.requires_grad
    torch.testing.assert_close(moments, theirs.parameters)
    torch.testing.assert_close(mine.latents(moments), 0.18215 * theirs.mean)
    noise = torch.randn(2, 4, 8, 16)
    torch.testing.assert_close(mine.latents(moments, noise), 0.18215 * (theirs.mean + theirs.std * noise))


def test_the_variance_is_limited(folder):
    moments = torch.cat([torch.zeros(1, 4, 1, 1), torch.tensor([-99.0, -30.0, 99.0, 20.0]).view(1, 4, 1, 1)], dim=1)
    latents = Autoencoder.from_pretrained(str(folder)).latents(moments, torch.ones(1, 4, 1, 1)).flatten()
    torch.testing.assert_close(latents[0], latents[1])
    torch.testing.assert_close(latents[2:], torch.full((2,), 0.18215 * float(torch.tensor(10.0).exp())))


def test_it_is_frozen_and_stays_in_eval_mode(folder):
    autoencoder = Autoencoder.from_pretrained(str(folder)).train()
    assert not autoencoder.training and not autoencoder.vae.training
    assert not any(parameter.requires_grad for parameter in autoencoder.parameters())


def test_sizes(folder):
    autoencoder = Autoencoder.from_pretrained(str(folder / "vae"))
    assert autoencoder.latent_shape(32, 64) == (4, 16, 32)
    with pytest.raises(OptionError, match="image_size 33x64 does not divide by 2.*32x64 does"):
        autoencoder.latent_shape(33, 64)


def test_a_folder_without_autoencoder(folder, tmp_path):
    shutil.copytree(folder / "unet", tmp_path / "unet")
    with pytest.raises(AssetError, match=r"no autoencoder in .*DCAC.SD.WEIGHTS.*it has unet"):
        Autoencoder.from_pretrained(str(tmp_path), key="DCAC.SD.WEIGHTS")


def test_a_model_of_another_kind(folder, tmp_path):
    shutil.copytree(folder / "unet", tmp_path / "vae")
    with pytest.raises(AssetError, match="UNet2DConditionModel: an AutoencoderKL is needed"):
        Autoencoder.from_pretrained(str(tmp_path))


def test_weights_of_another_size(folder, tmp_path):
    shutil.copytree(folder / "vae", tmp_path / "vae")
    config = json.loads((tmp_path / "vae/config.json").read_text())
    (tmp_path / "vae/config.json").write_text(json.dumps(config | {"block_out_channels": [32, 64]}))
    with pytest.raises(AssetError, match="of the autoencoder|cannot read the autoencoder"):
        Autoencoder.from_pretrained(str(tmp_path))


def test_names_of_old_versions_of_diffusers(folder, tmp_path):
    """Stable Diffusion 1.5 is published with the names that attentions had then."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder / "vae", tmp_path / "vae")
    file = tmp_path / "vae/diffusion_pytorch_model.safetensors"
    state = load_file(file)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, name in old.items():
        state = {key.replace(f"attentions.0.{new}", f"attentions.0.{name}"): value for key, value in state.items()}
    assert any("query" in key for key in state)
    save_file(state, file)
    pictures = torch.rand(1, 3, 16, 16)
    mine, theirs = (Autoencoder.from_pretrained(str(path)).moments(pictures) for path in (tmp_path, folder))
    torch.testing.assert_close(mine, theirs)
