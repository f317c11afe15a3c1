"""View control in the stock UNet: it must act in the encoder and in the decoder."""

import shutil

import pytest
import torch

from fastreid.config import ConfigError
from fastreid.methods.sd_reid.build import choose_trainable
from fastreid.modeling.diffusion import AssetError, UNetDenoiser
from fastreid.structures import Condition, ControlMaps
from tests.modeling import toys


@pytest.fixture(scope="module")
def denoiser(assets):
    return UNetDenoiser.from_pretrained(str(assets / "unet")).eval()


def control(size=2, **scales):
    """Maps of the tiny UNet's two controlled levels, each kind times its scale (default zero)."""

    def maps(kind):
        generator = torch.Generator().manual_seed(5)
        return tuple(
            scales.get(kind, 0.0) * torch.randn(size, 32, h, w, generator=generator) for h, w in ((8, 6), (4, 3))
        )

    return ControlMaps(maps("down"), maps("up"), scales.get("mid", 0.0) * torch.ones(size, 32, 1, 1))


def predict(denoiser, maps, size=2):
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(size, 4, 8, 6, generator=generator)
    tokens = torch.randn(size, 6, toys.FEATURE_DIM, generator=generator)
    with torch.no_grad():
        return denoiser(noisy, torch.tensor(10), Condition(tokens, maps))


def test_no_control_is_the_plain_unet(denoiser):
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, 4, 8, 6, generator=generator)
    tokens = torch.randn(2, 6, toys.FEATURE_DIM, generator=generator)
    with torch.no_grad():
        plain = denoiser.unet(noisy, torch.tensor(10), encoder_hidden_states=tokens).sample
    torch.testing.assert_close(predict(denoiser, control()), plain)


def test_a_condition_may_have_no_control(denoiser):
    torch.testing.assert_close(predict(denoiser, None), predict(denoiser, control()))


@pytest.mark.parametrize("kind", ["down", "up", "mid"])
def test_each_kind_of_control_changes_the_prediction(denoiser, kind):
    assert (predict(denoiser, control(**{kind: 1.0})) - predict(denoiser, control())).abs().max() > 1e-3


def test_encoder_and_decoder_control_act_together(denoiser):
    both = predict(denoiser, control(down=1.0, up=1.0))
    for one in (control(down=1.0), control(up=1.0)):
        assert (both - predict(denoiser, one)).abs().max() > 1e-3


def test_every_level_of_both_sides_has_an_effect(denoiser):
    plain = predict(denoiser, control())
    for kind in ("down", "up"):
        for level in range(denoiser.controlled_levels):
            maps = control(**{kind: 1.0})
            chosen = [m if i == level else torch.zeros_like(m) for i, m in enumerate(getattr(maps, kind))]
            parts = {"down": maps.down, "up": maps.up, kind: tuple(chosen)}
            changed = predict(denoiser, ControlMaps(parts["down"], parts["up"], maps.mid))
            assert (changed - plain).abs().max() > 1e-4, (kind, level)


def test_decoder_control_does_not_touch_the_encoder(denoiser):
    """The features that enter the middle block are the same with and without decoder maps."""
    seen = []
    hook = denoiser.unet.mid_block.register_forward_hook(lambda module, args, output: seen.append(args[0].clone()))
    predict(denoiser, control(up=1.0))
    predict(denoiser, control())
    predict(denoiser, control(down=1.0))
    hook.remove()
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def test_the_condition_is_left_as_it_was(denoiser):
    maps = control(down=1.0, up=1.0)
    first, second = predict(denoiser, maps), predict(denoiser, maps)
    assert torch.equal(first, second) and len(maps.down) == 2


def test_a_missing_unet_is_explained(tmp_path):
    with pytest.raises(AssetError, match=r"no UNet in .*UNET_CONFIG.PRETRAINED_PATH.*make_assets.py"):
        UNetDenoiser.from_pretrained(str(tmp_path), key="MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH")


def trained(assets, *options):
    cfg = toys.stage2_cfg(assets, *options)
    unet = UNetDenoiser.from_pretrained(str(assets / "unet")).unet
    choose_trainable(unet, cfg.MODEL.SDMODEL.UNET_CONFIG)
    return {name for name, parameter in unet.named_parameters() if parameter.requires_grad}, unet


def test_keys_and_values_of_the_chosen_attentions_train(assets):
    names, _ = trained(
        assets,
        "MODEL.SDMODEL.UNET_CONFIG.TRAIN",
        "cross_attention_kv",
        "MODEL.SDMODEL.UNET_CONFIG.TRAINABLE_BLOCK_IDX",
        [3],
    )
    prefix = "up_blocks.1.attentions.0.transformer_blocks.0.attn2."
    assert names == {prefix + "to_k.weight", prefix + "to_v.weight"}


def test_lora_trains_adapters_and_starts_as_the_plain_unet(assets, denoiser):
    names, unet = trained(assets, "MODEL.SDMODEL.UNET_CONFIG.TRAIN", "lora")
    assert names and all("lora" in name for name in names)
    torch.testing.assert_close(predict(UNetDenoiser(unet).eval(), control()), predict(denoiser, control()))


def test_all_trains_all(assets):
    names, unet = trained(assets)
    assert len(names) == len(list(unet.parameters()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("TRAIN", "cross_atention_kv"), "did you mean 'cross_attention_kv'"),
        (("TRAIN", "cross_attention_kv", "TRAINABLE_BLOCK_IDX", [11]), r"has 11, but .* are \[3, 4, 6, 7\]"),
        (("TRAIN", "cross_attention_kv", "TRAINABLE_BLOCK_IDX", []), "leaves nothing to train"),
    ],
)
def test_impossible_choices_are_explained(assets, options, message):
    keys = [word if i % 2 else f"MODEL.SDMODEL.UNET_CONFIG.{word}" for i, word in enumerate(options)]
    with pytest.raises(ConfigError, match=message):
        trained(assets, *keys)


def test_damaged_assets_are_named(assets, tmp_path):
    shutil.copytree(assets / "unet", tmp_path / "unet")
    (weights,) = (tmp_path / "unet").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(AssetError, match=r"cannot read the UNet in '.*unet'"):
        UNetDenoiser.from_pretrained(str(tmp_path / "unet"))
