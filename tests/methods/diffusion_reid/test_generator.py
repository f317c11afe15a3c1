"""The losses of the generator: prior preservation, identity words, weights, and what trains."""

import re

import pytest
import torch

from fastreid.config import ConfigError, with_values
from fastreid.methods.diffusion_reid.generator import DiffusionReID
from fastreid.utils.errors import ArgumentError


@pytest.fixture
def batch(place):
    paths = [str(place / f"train_{person}_0.png") for person in range(3)]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 64, 32), generator=generator).float()
    return {"images": images, "targets": torch.arange(3), "img_paths": paths, "indices": torch.arange(3)}


def build(make_cfg, *words):
    torch.manual_seed(0)
    return DiffusionReID(make_cfg(*words)).train()


def losses_of(model, batch, seed=5):
    torch.manual_seed(seed)
    return model(batch)


def test_the_loss_is_that_of_people_plus_lambda_times_that_of_the_reference_set(make_cfg, batch):
    once, twice, none = (
        losses_of(build(make_cfg, "DIFFPERSON.DI.PRIOR_WEIGHT", str(weight)), batch) for weight in (1.0, 2.0, 0.0)
    )
    plain = losses_of(build(make_cfg, "DIFFPERSON.DI.ENABLED", "False"), batch)
    assert torch.allclose(2 * once["loss_prior"], twice["loss_prior"])
    assert "loss_prior" not in none and "loss_prior" not in plain
    # The halves draw their noise one after the other, and only batch statistics could mix them: there are none.
    assert torch.allclose(once["loss_identity"], plain["loss_identity"], rtol=1e-5)
    assert torch.equal(none["loss_identity"], plain["loss_identity"])


def test_both_halves_see_their_own_prompts(make_cfg, batch, monkeypatch):
    model, seen = build(make_cfg), []
    encode = model.text.encode
    monkeypatch.setattr(model.text, "encode", lambda prompts: seen.append(list(prompts)) or encode(prompts))
    losses_of(model, batch)
    people, reference = seen
    assert people[1] == "a photo of a <id> person, a green jacket, a skirt, walking"
    assert all("<id>" in prompt for prompt in people) and not any("<id>" in prompt for prompt in reference)
    assert len(set(reference)) == 5
    losses_of(model, batch)
    assert len(seen) == 3  # the tokens of the reference set are kept


def test_dreambooth_has_one_prompt_for_all(make_cfg):
    model = build(make_cfg, "DIFFPERSON.DI.FINE_GRAINED", "False")
    assert set(model.reference.prompts) == {"a photo of a person"}


def test_only_adapters_and_words_get_a_gradient(make_cfg, batch):
    model = build(make_cfg)
    sum(losses_of(model, batch).values()).backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert "words.vectors" in trained and any("lora" in name for name in trained)
    assert all("lora" in name or name == "words.vectors" for name in trained)
    assert model.words.vectors.grad.abs().sum() > 0
    saved = model.checkpoint_state_dict()
    assert set(saved) == {name for name in model.state_dict() if "lora" in name or name == "words.vectors"}


@pytest.mark.parametrize(("mode", "trains"), [("full", True), ("words", False)])
def test_what_trains_in_the_unet(make_cfg, mode, trains):
    model = build(make_cfg, "DIFFPERSON.TUNE.MODE", mode)
    assert {parameter.requires_grad for parameter in model.denoiser.parameters()} == {trains}


def test_off_is_the_plain_caption(make_cfg, batch, monkeypatch):
    model, seen = build(make_cfg, "DIFFPERSON.IIR.MODE", "off", "DIFFPERSON.DI.ENABLED", "False"), []
    encode = model.text.encode
    monkeypatch.setattr(model.text, "encode", lambda prompts: seen.extend(prompts) or encode(prompts))
    assert set(losses_of(model, batch)) == {"loss_identity"}
    assert seen[0] == "a photo of a person, a red top, blue trousers, walking"


def test_the_length_of_the_words_is_a_loss(make_cfg, batch):
    model = build(make_cfg, "DIFFPERSON.IIR.REG", "0.5")
    found = losses_of(model, batch)["loss_words"]
    assert torch.allclose(found, 0.5 * model.words.vectors.abs().mean())
    found.backward()
    assert torch.equal(model.words.vectors.grad.sign(), model.words.vectors.sign())  # a step makes them shorter


def test_empty_prompts_of_all_rows_hide_the_words(make_cfg, batch):
    model = build(make_cfg, "DIFFPERSON.TRAIN.COND_DROP", "1.0", "DIFFPERSON.IIR.REG", "0.0")
    losses = losses_of(model, batch)
    sum(losses.values()).backward()
    assert float(model.words.vectors.grad.abs().sum()) == 0


def test_min_snr_weights(make_cfg, batch):
    model = build(make_cfg, "DIFFPERSON.TRAIN.SNR_GAMMA", "5.0")
    times = torch.tensor([0, 500, 999])
    kept = model.schedule.kept_signal(times, torch.ones(3))
    ratio = kept / (1 - kept)
    assert torch.allclose(model._weights(times, torch.ones(3)), ratio.clamp(max=5) / ratio)
    assert torch.equal(build(make_cfg)._weights(times, torch.ones(3)), torch.ones(3))


def test_the_reference_pictures_are_those_of_the_folder(make_cfg):
    model = build(make_cfg)
    moments, tokens = model.reference.rows(torch.tensor([4, 0]), model.autoencoder, model.text)
    assert moments.shape == (2, 8, 32, 16) and tokens.shape == (2, 77, 192)
    expected = model.text(model.text.encode([model.reference.prompts[4]]))
    assert torch.allclose(tokens[:1], expected, atol=1e-5)


def test_pivotal_tuning_freezes_the_unet_and_then_the_words(make_cfg):
    model = build(make_cfg, "DIFFPERSON.TUNE.PIVOT", "0.5", "SOLVER.MAX_EPOCH", "4")
    assert [model.frozen_in(epoch) for epoch in range(4)] == [("denoiser",)] * 2 + [("words",)] * 2
    assert build(make_cfg).frozen_in(0) == ()


def test_it_has_no_descriptors(make_cfg, batch):
    with pytest.raises(ArgumentError, match=r"tools/diffperson\.py generate"):
        build(make_cfg).eval()(batch)


def test_a_model_for_writing_needs_no_captions_and_no_reference_set(make_cfg):
    cfg = make_cfg("DIFFPERSON.DI.FOLDER", "gone", "DIFFPERSON.LPE.CAPTION_FILE", "gone")
    cfg.freeze()
    model = DiffusionReID(DiffusionReID.evaluation_config(cfg))
    assert model.reference is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("DIFFPERSON.SD.WEIGHTS", ""), r'SD.WEIGHTS is "": name a folder .*make_assets.py --text'),
        (("INPUT.SIZE_TRAIN", "[66, 32]"), "INPUT.SIZE_TRAIN.*66x32.*64x32"),
        (("INPUT.SIZE_TRAIN", "[64, 20]"), "multiple of 8; 64x"),
        (("DIFFPERSON.IIR.MODE", "encoder"), r'CLIP is "": set it'),
        (("DIFFPERSON.IIR.MODE", "encoder", "DIFFPERSON.IIR.INPUT", "reid"), r'REID is "": set it'),
        (("DIFFPERSON.TUNE.MODE", "words", "DIFFPERSON.IIR.MODE", "off"), "leaves nothing to train"),
        (("DIFFPERSON.DI.FOLDER", "gone"), r"needs the reference set, but there is no gone.*reference"),
        (("DIFFPERSON.LPE.CAPTION_FILE", ""), r"CAPTION_FILE, which is .*diffperson\.py caption"),
        (("DIFFPERSON.TUNE.PIVOT", "0.1", "SOLVER.MAX_EPOCH", "2"), "is 0 epochs: both parts"),
        (("DIFFPERSON.TUNE.PIVOT", "0.5", "DIFFPERSON.IIR.MODE", "off"), "it needs both"),
        (("DIFFPERSON.IIR.ID_CONSIST", "0.1"), "it needs DIFFPERSON.IIR.MODE encoder"),
        (("DIFFPERSON.IIR.WORDS", "60"), r"IIR.WORDS.* must be from 1 to 38"),
        (("DIFFPERSON.TUNE.TARGETS", "['attn9.q']"), "TUNE.TARGETS"),
    ],
)
def test_keys_that_do_not_fit_are_named(make_cfg, words, said):
    with pytest.raises((ConfigError, ValueError), match=re.compile(said, re.DOTALL)):
        build(make_cfg, *words)


def test_an_image_without_a_caption_is_found_before_training(make_cfg, tmp_path, place):
    lines = (place / "captions.jsonl").read_text().replace("train_1_0.png", "train_9_0.png")
    lines = lines.replace('"image": "', f'"image": "{place}/')
    (tmp_path / "c.jsonl").write_text(lines)
    from fastreid.data.build import training_images

    cfg = with_values(make_cfg("DIFFPERSON.LPE.CAPTION_FILE", str(tmp_path / "c.jsonl")), {})
    with pytest.raises(ConfigError, match=r"1 of 6 training images have no caption .*train_1_0\.png"):
        DiffusionReID(cfg).check_data(training_images(cfg).images)
