"""Latent consistency sampling and LoRA files: the same pictures in any batch, and files that do not fit are named."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from fastreid.config import ConfigError
from fastreid.generation.caption import caption
from fastreid.generation.shards import Shard
from fastreid.generation.stages import _trained_painter, generate
from tests.generation.test_stages import GEN, checkpoint, pictures

LCM = ("DIFFPERSON.GEN.SOLVER", "lcm")


@pytest.fixture
def trained(make_cfg, tmp_path):
    """Return the config of a trained factory, in a folder of its own."""

    def make(name, *words):
        cfg = make_cfg("OUTPUT_DIR", str(tmp_path / name), *GEN, *words)
        cfg.freeze()
        caption(cfg, Shard())
        checkpoint(cfg, tmp_path / name / "train")
        return cfg

    return make


@pytest.fixture
def lora(make_cfg, tmp_path):
    """A file of LoRA weights as diffusers writes it; they are random."""
    unet = UNet2DConditionModel.from_pretrained(make_cfg().DIFFPERSON.SD.WEIGHTS, subfolder="unet")
    torch.manual_seed(0)
    unet.add_adapter(LoraConfig(r=4, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    StableDiffusionPipeline.save_lora_weights(tmp_path / "lora", unet_lora_layers=get_peft_model_state_dict(unet))
    return tmp_path / "lora/pytorch_lora_weights.safetensors"


def pixels(cfg):
    assert generate(cfg, Shard()) == 9
    return {key: picture for key, (picture, _) in pictures(cfg).items()}


def test_a_lora_file_is_added_to_the_trained_adapters(trained, lora):
    plain, adapted = trained("plain"), trained("adapted", "DIFFPERSON.GEN.LORA", str(lora))
    unets = [_trained_painter(cfg, 3).pipeline.unet for cfg in (plain, adapted)]
    assert [unet.active_adapters() for unet in unets] == [["default"], ["default", "file"]]
    layer = next(name for name, _ in unets[0].named_modules() if name.endswith("attn1.to_q"))
    delta = load_file(lora)
    up, down = (delta[f"unet.{layer}.lora_{letter}.weight"] for letter in "BA")
    rows = torch.randn(5, down.shape[1], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, after = (unet.get_submodule(layer)(rows) for unet in unets)
    torch.testing.assert_close(after, before + rows @ down.T @ up.T, atol=1e-5, rtol=1e-4)
    assert pixels(plain) != pixels(adapted)


def test_pictures_of_a_consistency_model_do_not_depend_on_batches_and_shards(trained, lora):
    words = (*LCM, "DIFFPERSON.GEN.LORA", str(lora), "DIFFPERSON.GEN.STEPS", "4")
    whole = pixels(trained("whole", *words))
    parts = trained("parts", *words, "DIFFPERSON.GEN.BATCH", "3")
    assert generate(parts, Shard(2, 2)) + generate(parts, Shard(1, 2)) == 9
    for key, (picture, _) in pictures(parts).items():
        difference = np.frombuffer(picture, np.uint8).astype(int) - np.frombuffer(whole[key], np.uint8)
        assert np.abs(difference).max() <= 1  # rounding
    assert len(set(whole.values())) == 9


def test_other_lora_weights_are_other_settings(trained, lora):
    cfg = trained("one", "DIFFPERSON.GEN.LORA", str(lora))
    generate(cfg, Shard())
    save_file({name: -value for name, value in load_file(lora).items()}, lora)
    with pytest.raises(ConfigError, match="was written with other settings: LoRA"):
        generate(cfg, Shard())


def test_files_that_do_not_fit_are_named(trained, lora, tmp_path):
    for name, content, said in (
        ("wide", {name: value.repeat(2, 2) for name, value in load_file(lora).items()}, "cannot be added to this UNet"),
        ("other", {"weight": torch.ones(3)}, "cannot be added to this UNet|has no LoRA weights of a UNet"),
    ):
        file = tmp_path / f"{name}.safetensors"
        save_file(content, file)
        with pytest.raises(ConfigError, match=rf"DIFFPERSON.GEN.LORA '.*{name}.safetensors' .*({said})"):
            generate(trained(name, "DIFFPERSON.GEN.LORA", str(file)), Shard())
    with pytest.raises(ConfigError, match="DIFFPERSON.GEN.LORA: there is no file .*gone.safetensors"):
        generate(trained("gone", "DIFFPERSON.GEN.LORA", str(tmp_path / "gone.safetensors")), Shard())


def test_a_consistency_model_takes_few_steps(trained):
    with pytest.raises(ConfigError, match="DIFFPERSON.GEN.STEPS must be 1 … 50 for lcm, got 60"):
        generate(trained("many", *LCM, "DIFFPERSON.GEN.STEPS", "60"), Shard())
