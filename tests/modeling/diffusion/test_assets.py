"""Asset folders of every usual make load, and what is something else is called what it is."""

import json
import logging
import shutil

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from safetensors.torch import load_file, save_file

from fastreid.config import ConfigError
from fastreid.methods.sd_reid.build import make_schedule
from fastreid.modeling.diffusion import AssetError, UNetDenoiser
from tests.modeling import toys

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:1f\nsize 3438167540\n"
NAME = "diffusion_pytorch_model"


@pytest.fixture
def unet(assets):
    return UNet2DConditionModel.from_pretrained(assets / "unet")


@pytest.fixture
def copied(assets, tmp_path):
    """A copy of the UNet's folder that a test may damage."""
    shutil.copytree(assets / "unet", tmp_path / "unet")
    return tmp_path / "unet"


def load(folder):
    return UNetDenoiser.from_pretrained(str(folder), key="MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH").unet


def same(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "options",
    [
        {"safe_serialization": False},
        {"max_shard_size": "100KB"},
        {"max_shard_size": "100KB", "safe_serialization": False},
        {"variant": "non_ema"},
        {"variant": "non_ema", "max_shard_size": "100KB"},
        {"variant": "non_ema", "safe_serialization": False},
    ],
)
def test_every_make_of_weights(unet, tmp_path, options):
    unet.save_pretrained(tmp_path, **options)
    assert same(load(tmp_path), unet)


def test_half_precision_is_read_as_float32(unet, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="fastreid")
    unet.half().save_pretrained(tmp_path, variant="fp16")
    loaded = load(tmp_path)
    assert same(loaded, unet.float()) and {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert "is its variant fp16, read as float32" in caplog.text
    (tmp_path / f"{NAME}.fp16.safetensors").rename(tmp_path / f"{NAME}.safetensors")
    assert {p.dtype for p in load(tmp_path).parameters()} == {torch.float32}


def test_a_whole_pipeline_has_its_parts(assets, unet, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="fastreid")
    for part in ("unet", "scheduler"):
        shutil.copytree(assets / part, tmp_path / part)
    (tmp_path / "model_index.json").write_text("{}")
    assert same(load(tmp_path), unet)
    key = "MODEL.SDMODEL.SCHEDULER_CONFIG.PRETRAINED_PATH"
    assert make_schedule(toys.stage2_cfg(assets, key, str(tmp_path))).num_timesteps == 200
    assert caplog.text.count(f"{tmp_path} is a whole pipeline") == 1
    shutil.rmtree(tmp_path / "unet")
    (tmp_path / "transformer").mkdir()
    with pytest.raises(AssetError, match="no UNet in .*expected config.json; it has model_index.json, sched"):
        load(tmp_path)


def without(name):
    def change(folder):
        file = folder / f"{NAME}.safetensors"
        state = load_file(file)
        save_file({key: value for key, value in state.items() if not key.startswith(name)}, file)

    return change


def with_more(folder):
    file = folder / f"{NAME}.safetensors"
    save_file(load_file(file) | {"control.zero.weight": torch.ones(2)}, file)


def with_other_shape(folder):
    file = folder / f"{NAME}.safetensors"
    save_file(load_file(file) | {"conv_in.weight": torch.ones(16, 4, 3, 3)}, file)


def with_config(**values):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return change


def written(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def without_weights(folder):
    (folder / f"{NAME}.safetensors").rename(folder / "diffusion_flax_model.msgpack")


def in_two_variants(folder):
    (folder / f"{NAME}.safetensors").rename(folder / f"{NAME}.fp16.safetensors")
    shutil.copy(folder / f"{NAME}.fp16.safetensors", folder / f"{NAME}.non_ema.safetensors")


def without_a_shard(folder):
    UNet2DConditionModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="100KB")
    next(folder.glob("*-00002-of-*")).unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without("up_blocks.1"), r"they fill \d+\.\d% of the UNet; missing .*: up_blocks\.1\..* more; left over: none"),
        (with_more, r"they fill 100\.0% of the UNet; missing .*: none; left over: control\.zero\.weight"),
        (with_other_shape, "conv_in"),
        (with_config(_class_name="UNet2DModel"), "is of UNet2DModel: a UNet2DConditionModel is needed"),
        (with_config(_class_name="ControlNetModel"), "is of ControlNetModel"),
        (with_config(_class_name=None, architectures=["CLIPTextModel"]), "is of CLIPTextModel"),
        (with_config(_class_name=None), "is of something that names no class"),
        (with_config(addition_embed_type="text_time"), "addition_embed_type 'text_time': .* pooled text of SDXL"),
        (with_config(class_embed_type="timestep"), "class labels"),
        (with_config(encoder_hid_dim_type="image_proj"), "embeddings of another encoder"),
        (with_config(cross_attention_dim=[192, 192, 192]), "cross_attention_dim .*one number"),
        (with_config(down_block_types=["SimpleCrossAttnDownBlock2D"] * 2 + ["DownBlock2D"]), "SimpleCrossAttn"),
        (with_config(block_out_channels="x"), "cannot read the UNet in"),
        (with_config(cross_attention_dim=96), "cannot read the UNet|they fill"),
        (written("config.json", b'{"_class_name": "UN'), "config.json cannot be read: it is damaged .*column"),
        (written("config.json", b""), "config.json cannot be read: it is empty"),
        (written("config.json", b"[1]"), "config.json holds a list"),
        (written("config.json", '{"a": "é"}'.encode("latin-1")), "is not text in UTF-8"),
        (written("config.json", POINTER), "config.json cannot be read: it is a Git LFS pointer"),
        (written(f"{NAME}.safetensors", POINTER), rf"{NAME}\.safetensors: it is a Git LFS pointer"),
        (written(f"{NAME}.safetensors", b"<!DOCTYPE html>"), "a web page"),
        (written(f"{NAME}.safetensors", b""), "it is empty"),
        (without_weights, "no weights of the UNet in .*it has config.json, diffusion_flax_model.msgpack"),
        (in_two_variants, "several variants, fp16, non_ema: rename one"),
        (without_a_shard, "cannot read the UNet in"),
    ],
)
def test_what_does_not_fit_is_one_sentence(copied, damage, said):
    damage(copied)
    with pytest.raises(AssetError, match=said) as error:
        load(copied)
    assert "MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH" in str(error.value) or "config.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_models_that_are_no_such_unet(tmp_path):
    sizes = {"block_out_channels": (32, 32), "norm_num_groups": 8}
    UNet2DModel(
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, layers_per_block=1, **sizes
    ).save_pretrained(tmp_path / "plain")
    with pytest.raises(AssetError, match="is of UNet2DModel"):
        load(tmp_path / "plain")
    blocks = ("CrossAttnDownBlock2D", "DownBlock2D")
    ControlNetModel(down_block_types=blocks, cross_attention_dim=32, **sizes).save_pretrained(tmp_path / "control")
    with pytest.raises(AssetError, match="is of ControlNetModel"):
        load(tmp_path / "control")
    (tmp_path / "v1-5.ckpt").write_bytes(b"x")
    with pytest.raises(AssetError, match=r"v1-5\.ckpt' .* is a file: name a Diffusers folder.*--stable-diffusion FILE"):
        load(tmp_path / "v1-5.ckpt")


def schedule(assets, tmp_path, scheduler=None, *options, **values):
    """The schedule that a scheduler's saved config gives, with some of its values changed."""
    folder = tmp_path / "scheduler"
    (scheduler or PNDMScheduler(beta_schedule="scaled_linear")).save_pretrained(folder)
    config = json.loads((folder / "scheduler_config.json").read_text()) | values
    config = {name: value for name, value in config.items() if value != "gone"}
    (folder / "scheduler_config.json").write_text(json.dumps(config))
    key = "MODEL.SDMODEL.SCHEDULER_CONFIG.PRETRAINED_PATH"
    return make_schedule(toys.stage2_cfg(assets, key, str(folder), *options))


@pytest.mark.parametrize(
    ("scheduler", "said"),
    [
        (DDIMScheduler(prediction_type="v_prediction"), "v_prediction"),
        (DDIMScheduler(prediction_type="sample"), "sample"),
        (PNDMScheduler(), "epsilon"),
        (EulerDiscreteScheduler(), "epsilon"),
        (DPMSolverMultistepScheduler(prediction_type="v_prediction"), "v_prediction"),
    ],
)
def test_the_assets_say_what_is_predicted(assets, tmp_path, caplog, scheduler, said):
    assert schedule(assets, tmp_path, scheduler).prediction_type == said
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_old_files_that_do_not_say_it_mean_epsilon(assets, tmp_path):
    assert schedule(assets, tmp_path, prediction_type="gone", _class_name="gone").prediction_type == "epsilon"


def test_a_key_wins_and_the_difference_is_logged(assets, tmp_path, caplog):
    key = "MODEL.SDMODEL.PREDICTION_TYPE"
    scheduler = DDIMScheduler(prediction_type="v_prediction")
    assert schedule(assets, tmp_path, scheduler, key, "epsilon").prediction_type == "epsilon"
    said = "MODEL.SDMODEL.PREDICTION_TYPE is epsilon, but scheduler_config.json of the assets says v_prediction"
    assert said in caplog.text
    with pytest.raises(ConfigError, match=r"PREDICTION_TYPE .*v_predicton.*did you mean 'v_prediction'"):
        schedule(assets, tmp_path, scheduler, key, "v_predicton")


def test_the_betas_are_those_of_the_assets(assets, tmp_path):
    made = schedule(assets, tmp_path, DDIMScheduler(beta_start=0.001, beta_end=0.5, beta_schedule="linear"))
    clean, noise = torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)
    first = made.add_noise(clean, noise, torch.tensor([0])).mean()
    assert first == pytest.approx((1 - 0.001) ** 0.5)
    assert made.betas == {
        "beta_start": 0.001, "beta_end": 0.5, "beta_schedule": "linear", "trained_betas": None,
        "rescale_betas_zero_snr": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("scheduler", "values", "said"),
    [
        (FlowMatchEulerDiscreteScheduler(), {}, "is of flow matching .FlowMatchEulerDiscreteScheduler"),
        (DPMSolverMultistepScheduler(), {"use_flow_sigmas": True}, "is of flow matching"),
        (DPMSolverMultistepScheduler(), {"prediction_type": "flow_prediction"}, "is of flow matching"),
        (EDMEulerScheduler(), {}, "EDMEulerScheduler. has no schedule of betas: expected beta_start"),
        (None, {"beta_start": "gone"}, "has no schedule of betas"),
        (None, {"beta_end": "0.02"}, "betas must be numbers between 0 and 1"),
        (None, {"beta_end": 2}, "betas must be numbers between 0 and 1"),
        (None, {"trained_betas": []}, "betas must be numbers"),
        (None, {"beta_schedule": "lines"}, "beta_schedule .*linear"),
        (None, {"prediction_type": "v-prediction"}, "did you mean 'v_prediction'"),
    ],
)
def test_what_is_no_diffusion_is_refused(assets, tmp_path, scheduler, values, said):
    with pytest.raises(AssetError, match=said):
        schedule(assets, tmp_path, scheduler, **values)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"{}", "has no schedule of betas"), (b"{", "it is damaged"), (POINTER, "a Git LFS pointer"), (b"3", "an? int")],
)
def test_damaged_scheduler_files(assets, tmp_path, content, said):
    (tmp_path / "scheduler_config.json").write_bytes(content)
    key = "MODEL.SDMODEL.SCHEDULER_CONFIG.PRETRAINED_PATH"
    with pytest.raises(AssetError, match=rf"scheduler_config\.json.* {said}"):
        make_schedule(toys.stage2_cfg(assets, key, str(tmp_path)))
    with pytest.raises(AssetError, match="there is no such folder"):
        make_schedule(toys.stage2_cfg(assets, key, str(tmp_path / "nowhere")))


def test_listed_betas_cannot_be_spread(assets, tmp_path):
    betas = [0.01] * 100
    with pytest.raises(ConfigError, match="TRAIN_STEP is 200, but .* lists 100 betas .*set it to 100"):
        schedule(assets, tmp_path, None, trained_betas=betas)
    assert schedule(assets, tmp_path, None, "MODEL.SDMODEL.TRAIN_STEP", 100, trained_betas=betas).num_timesteps == 100


def test_pndm_cannot_rescale_betas(assets, tmp_path):
    with pytest.raises(ConfigError, match="pndm cannot rescale the betas"):
        schedule(
            assets, tmp_path, DDIMScheduler(rescale_betas_zero_snr=True),
            "MODEL.SDMODEL.SCHEDULER_CONFIG.NAME", "pndm",
        )  # fmt: skip


def test_the_identity_of_a_run_has_them(make_stage2):
    facts = make_stage2().training_facts()
    assert facts["the prediction type of stage 2"] == "epsilon"
    assert facts["the schedule of betas of stage 2"]["beta_end"] == 0.012
