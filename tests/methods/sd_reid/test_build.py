"""Parts of stage 2 from the config: each key is read, and errors name keys."""

import logging
import sys

import pytest

from fastreid.config import ConfigError, get_cfg
from fastreid.methods.sd_reid.build import make_denoiser, make_noise, make_sampler, make_schedule
from fastreid.modeling.diffusion import Sampler
from tests.modeling import toys
from tests.modeling.diffusion.test_schedule import make


def sampler_of(*options):
    cfg = get_cfg()
    cfg.merge_from_list(list(options))
    return make_sampler(cfg, make("ddim"))


def test_every_field_is_read_from_its_key():
    options = ("FULL_GUIDANCE_SCALE", 1.5, "DOWN_BLOCK_GUIDANCE_SCALE", 3.5, "MICRO_BATCH", 7, "NUM_INFERENCE_STEPS", 4)
    keys = [f"TEST.SDMODEL.{word}" if isinstance(word, str) else word for word in options]
    sampler = sampler_of(*keys, "TEST.SDMODEL.CONTROL_STEPS", "fading")
    assert (sampler.full_scale, sampler.down_scale, sampler.micro_batch, sampler.num_steps) == (1.5, 3.5, 7, 4)
    assert sampler.control_fades
    assert not sampler_of("TEST.SDMODEL.CONTROL_STEPS", "every").control_fades
    assert (Sampler.full_scale, Sampler.down_scale, Sampler.micro_batch) == (2.0, 2.0, 0)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("CONTROL_STEPS", "fades", "Legal: every, fading"),
        ("MICRO_BATCH", -1, "MICRO_BATCH"),
        ("NUM_INFERENCE_STEPS", 10**6, "NUM_INFERENCE_STEPS"),
    ],
)
def test_impossible_keys_are_refused(key, value, said):
    with pytest.raises(ConfigError, match=said):
        sampler_of(f"TEST.SDMODEL.{key}", value)


def test_noise_is_seeded_by_the_seed_of_the_run_unless_it_has_its_own():
    cfg = get_cfg()
    assert make_noise(cfg, (4, 8, 6)).seed == cfg.MODEL.SEED
    cfg.TEST.SDMODEL.NOISE_SEED = 0
    assert make_noise(cfg, (4, 8, 6)).seed == 0
    cfg.TEST.SDMODEL.NOISE = "share"
    with pytest.raises(ConfigError, match="unknown TEST.SDMODEL.NOISE 'share'; did you mean 'shared'"):
        make_noise(cfg, (4, 8, 6))


def test_messages_about_the_assets_name_keys(assets, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    make_schedule(toys.stage2_cfg(assets, "MODEL.SDMODEL.TRAIN_STEP", 150))
    assert "are spread over 150 (MODEL.SDMODEL.TRAIN_STEP)" in caplog.text
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"MODEL\.SDMODEL\.UNET_CONFIG\.TRAIN lora needs peft, which cannot be"):
        make_denoiser(toys.stage2_cfg(assets, "MODEL.SDMODEL.UNET_CONFIG.TRAIN", "lora"), 12, 32)
