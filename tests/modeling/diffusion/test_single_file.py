"""A Stable Diffusion of one file, in the form of CompVis, becomes folders of diffusers."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from fastreid.modeling.diffusion import AssetError, Autoencoder, UNetDenoiser
from fastreid.modeling.diffusion.scheduler_assets import read_scheduler
from fastreid.modeling.diffusion.single_file import convert_single_file
from tests.methods.dcac.conftest import write_assets

LAYERS, LEVELS = 1, 2  # layers of each block of the tiny models, and their levels
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
STEMS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def of_unet(name):
    """Return the name of CompVis of a parameter of the UNet."""
    for new, old in STEMS.items():
        if name.startswith(f"{new}."):
            return name.replace(new, old, 1)
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        place = f"middle_block.{2 * int(found[2]) if found[1] == 'resnets' else 1}"
    else:
        found = re.match(r"(?:down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.+)", name)
        block, kind, layer, rest = int(found[1]), found[2], int(found[3]), found[4]
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (LAYERS + 1)}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            after = 2 if block else 1  # behind the attention, if there is one
            return f"output_blocks.{block * (LAYERS + 1) + LAYERS}.{after}.{rest}"
        number = block * (LAYERS + 1) + layer
        half = f"input_blocks.{number + 1}" if name.startswith("down") else f"output_blocks.{number}"
        place, found = f"{half}.{int(kind == 'attentions')}", re.match(r"()()(.+)", rest)
    rest = found[3]
    for new, old in RESNET.items():
        if rest.startswith(f"{new}.") and "transformer" not in rest:
            rest = rest.replace(new, old, 1)
            break
    return f"{place}.{rest}"


def of_vae(name):
    """Return the name of CompVis of a parameter of the autoencoder."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for new, old in ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0.{new}.", f"mid.attn_1.{old}.")
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{LEVELS - 1 - int(m[1])}.block", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{LEVELS - 1 - int(m[1])}.upsample", name)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """The folder of a tiny pipeline, its configs, and its state in the form of CompVis."""
    folder = write_assets(tmp_path_factory.mktemp("pipeline"))
    state = {"cond_stage_model.transformer.weight": torch.zeros(2), "model_ema.decay": torch.zeros(())}
    configs = {}
    for part, prefix, rename in (("unet", "model.diffusion_model.", of_unet), ("vae", "first_stage_model.", of_vae)):
        configs[part] = json.loads((folder / part / "config.json").read_text())
        for name, value in load_file(folder / part / "diffusion_pytorch_model.safetensors").items():
            old = rename(name)
            is_flat = ".attn_1." in old and value.ndim == 2  # 1x1 convolutions of CompVis
            state[prefix + old] = value[..., None, None] if is_flat else value
    return folder, configs, state


def test_the_converted_models_give_the_same_outputs(pipeline, tmp_path):
    folder, configs, state = pipeline
    convert_single_file(state, tmp_path, **configs)
    for path in (tmp_path, folder):
        assert read_scheduler(str(path))["beta_schedule"] == "scaled_linear"
    mine, theirs = (UNetDenoiser.from_pretrained(str(path)).state_dict() for path in (tmp_path, folder))
    assert mine.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in mine.items())
    pictures = torch.rand(1, 3, 16, 16)
    moments = [Autoencoder.from_pretrained(str(path)).moments(pictures) for path in (tmp_path, folder)]
    assert torch.equal(*moments)


def test_another_file_is_refused(pipeline, tmp_path):
    _, configs, state = pipeline
    with pytest.raises(AssetError, match="no names begin with 'model.diffusion_model.'"):
        convert_single_file({"conv.weight": torch.zeros(1)}, tmp_path, **configs)
    with pytest.raises(AssetError, match="unet in the file does not fit Stable Diffusion 1"):
        convert_single_file(state, tmp_path / "wide")
    assert not (tmp_path / "wide/unet").exists()
