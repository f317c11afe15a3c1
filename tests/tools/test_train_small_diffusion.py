"""A small Stable Diffusion is trained on captions, and its folder is one of diffusers."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from PIL import Image

from fastreid.config import ConfigError
from fastreid.generation.captioned import CaptionedPictures, CaptionFileError, load_pictures
from fastreid.generation.colour_check import ColourCheck, colours_of
from fastreid.generation.small_diffusion import (
    TrainingPlan,
    load_pipeline,
    tokenise,
    train_autoencoder,
    train_denoiser,
    train_text_encoder,
)
from fastreid.methods.diffusion_reid.captions import read_captions
from fastreid.rendering.people import CLOTHES
from fastreid.utils.errors import ArgumentError

TOOLS = Path(__file__).parents[2] / "tools"
FEW = "--steps 2 --vae-steps 2 --text-steps 2 --batch 4 --vae-batch 4 --text-batch 4".split()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A caption file of 40 pictures of one colour each, and random assets."""
    folder = tmp_path_factory.mktemp("drawing")
    lines = []
    for number in range(40):
        colour = list(CLOTHES)[number % 4]
        rgb = tuple(round(255 * value) for value in CLOTHES[colour])
        Image.new("RGB", (20, 40), rgb).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "caption": f"a {colour} top, {colour} trousers"}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    runpy.run_path(str(TOOLS / "make_assets.py"))["make_if_absent"]("small", folder / "assets", 0, True)
    return folder


def train(places, output, *words):
    main = runpy.run_path(str(TOOLS / "train_small_diffusion.py"))["main"]
    files = ["--captions", str(places / "captions.jsonl"), "--assets", str(places / "assets")]
    main([*files, "--output", str(output), *FEW, *words])


def test_it_writes_a_pipeline_a_summary_and_a_sheet(places, tmp_path, capsys):
    train(places, tmp_path / "trained")
    assert "wrote" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["trained"]
    summary = json.loads((tmp_path / "trained/summary.json").read_text())
    assert (summary["pictures"], summary["size"]) == (38, [64, 32])
    assert summary["colours_right_when_rendered"] == {"upper": 1.0, "lower": 1.0}
    assert Image.open(tmp_path / "trained/sheet.jpg").size == (2 * 32 * 3, 2 * 64 * 3)
    before, after = (load_pipeline(folder) for folder in (places / "assets", tmp_path / "trained"))
    for part in ("unet", "vae", "text_encoder"):
        weights = [torch.cat([p.flatten() for p in getattr(x, part).parameters()]) for x in (before, after)]
        assert not torch.equal(*weights), part
    assert after.vae.config.scaling_factor != before.vae.config.scaling_factor
    train(places, tmp_path / "trained")
    assert "nothing to do" in capsys.readouterr().out
    refused = pytest.raises(SystemExit, match="something else than these arguments and files give")
    with refused:
        train(places, tmp_path / "trained", "--seed", "1")
    file = places / "captions.jsonl"
    before = file.read_text()
    try:
        file.write_text(before.replace("trousers", "shorts"))
        with refused:
            train(places, tmp_path / "trained")
    finally:
        file.write_text(before)


def test_the_seed_decides_the_weights(places, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(places, tmp_path / name, "--seed", str(seed))
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.safetensors")]
    same = [[(tmp_path / name / file).read_bytes() for file in files] for name in "abc"]
    assert len(files) == 3 and same[0] == same[1]
    assert all(one != other for one, other in zip(same[0], same[2], strict=True))


def test_an_interruption_leaves_nothing(places, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(StableDiffusionPipeline, "save_pretrained", stop)
    with pytest.raises(KeyboardInterrupt):
        train(places, tmp_path / "trained")
    assert not list(tmp_path.iterdir())


def test_the_losses_fall(places):
    pipeline = load_pipeline(places / "assets")
    data = load_pictures(read_captions(places / "captions.jsonl"), 64, 32)
    plan = TrainingPlan(vae_steps=12, text_steps=40, vae_batch=4, text_batch=4)
    for losses in (
        train_autoencoder(pipeline.vae, data.pictures, plan),
        train_text_encoder(pipeline, data, plan, "a photo of a person"),
    ):
        assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    latents = pipeline.vae.encode(data.pictures.float() / 127.5 - 1).latent_dist.mean
    assert (latents * pipeline.vae.config.scaling_factor).std() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "sample"])
def test_the_denoiser_learns_what_its_scheduler_says(places, predicts):
    """One picture is learnt: the prediction of the clean latents comes near to it."""
    pipeline = load_pipeline(places / "assets")
    pipeline.scheduler.register_to_config(prediction_type=predicts)
    data = load_pictures(read_captions(places / "captions.jsonl"), 64, 32)
    one = CaptionedPictures(data.pictures[:1], data.captions[:1])
    train_autoencoder(pipeline.vae, data.pictures, TrainingPlan(vae_steps=4, vae_batch=4))
    train_denoiser(pipeline, one, TrainingPlan(steps=80, batch=1), "a person")
    factor = pipeline.vae.config.scaling_factor
    clean = factor * pipeline.vae.encode(one.pictures.float() / 127.5 - 1).latent_dist.mean
    forward = DDPMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    noise, times = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    tokens = tokenise(pipeline.tokenizer, [f"a person, {one.captions[0]}"])
    noisy = forward.add_noise(clean, noise, times)
    output = pipeline.unet(noisy, times, pipeline.text_encoder(tokens)[0]).sample
    predicted = forward.step(output, 500, noisy).pred_original_sample
    assert (predicted - clean).square().mean() < 0.3 * clean.square().mean()


def test_colours_are_those_of_the_first_two_slots():
    captions = ["a red top with white hoops, a navy skirt, black hair", "a coat, pink shorts"]
    assert colours_of(captions, tuple(CLOTHES)) == {
        "upper": [["red", "white"], []],
        "lower": [["navy"], ["pink"]],
    }


def test_a_wrong_colour_is_counted():
    pictures = torch.zeros(4, 3, 16, 8, dtype=torch.uint8)
    pictures[:, 0, :8] = torch.tensor([200, 200, 0, 0])[:, None, None]  # red or black above
    pictures[:, 2, 8:] = 200  # blue below
    captions = [f"a {upper} top, blue trousers" for upper in ("red", "red", "black", "black")]
    check = ColourCheck(CaptionedPictures(pictures, captions), tuple(CLOTHES))
    swapped = CaptionedPictures(pictures, [captions[0], captions[2], captions[0], captions[2]])
    assert check.share_right(swapped) == {"upper": 0.5, "lower": 1.0}


@pytest.mark.parametrize("seed", [2**43, -(2**43) - 1, 2**70])
def test_a_seed_out_of_range_is_refused_before_the_training(seed):
    with pytest.raises(ArgumentError, match=r"the seed must be from -2\^43 to 2\^43 - 1, got"):
        TrainingPlan(seed=seed)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("not JSON", "line 1: expected"),
        ('{"image": "missing.png", "caption": "a red top"}', "missing.png, which has a caption, cannot be read"),
    ],
)
def test_a_bad_caption_file_is_named(places, tmp_path, line, said):
    (tmp_path / "captions.jsonl").write_text(line)
    with pytest.raises((CaptionFileError, ConfigError), match=said):
        load_pictures(read_captions(tmp_path / "captions.jsonl"), 64, 32)


def test_assets_without_text_are_refused(places, tmp_path):
    for part in ("unet", "vae", "scheduler"):
        shutil.copytree(places / "assets" / part, tmp_path / "assets" / part)
    shutil.copy(places / "captions.jsonl", tmp_path)
    with pytest.raises(SystemExit, match="name a Stable Diffusion with a text encoder"):
        train(tmp_path, tmp_path / "trained")
