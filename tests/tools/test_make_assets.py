"""The random assets are made once, whoever asks for them, and however many at once."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from fastreid.generation.text_assets import CLIP_VOCABULARY, write_tokenizer
from tests.warm_python import warm_python

TOOL = Path(__file__).parents[2] / "tools" / "make_assets.py"


def test_two_at_once_end_well(tmp_path):
    command = [warm_python(), str(TOOL), "--size", "tiny", "--output", str(tmp_path / "assets")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("wrote random weights" in out for out, _ in said) == [False, True]
    assert any("nothing to do" in out for out, _ in said)
    assert sorted(path.name for path in (tmp_path / "assets").iterdir()) == ["assets.json", "scheduler", "unet", "vae"]
    assert [path.name for path in tmp_path.iterdir()] == ["assets"]


def make(capsys, *words):
    """Run the tool; return what it says."""
    with mock.patch.object(sys, "argv", [str(TOOL), *map(str, words)]):
        runpy.run_path(str(TOOL))["main"]()
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def with_text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assets") / "tiny-text"
    runpy.run_path(str(TOOL))["make_if_absent"]("tiny", folder, 0, True)
    return folder


@pytest.mark.parametrize("seed", [2**70, 2**64, -(2**63) - 1])
def test_a_seed_out_of_range_is_refused(tmp_path, capsys, seed):
    with pytest.raises(SystemExit, match=r"--seed is a whole number from -2\^63 to 2\^64 - 1, got"):
        make(capsys, "--output", tmp_path / "a", f"--seed={seed}")
    assert not (tmp_path / "a").exists()


def test_diffusers_loads_assets_with_text_and_draws(with_text):
    pipeline = StableDiffusionPipeline.from_pretrained(with_text, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.text_encoder.config.hidden_size == pipeline.unet.config.cross_attention_dim == 192
    red, again, blue = (
        pipeline(text, 16, 8, 2, generator=torch.Generator().manual_seed(0), output_type="np").images
        for text in ("a red top", "a red top", "a blue top")
    )
    assert red.shape == (1, 16, 8, 3)
    assert np.array_equal(red, again) and not np.array_equal(red, blue)


def test_the_words_of_the_grammars_are_one_token_and_other_text_is_split(with_text):
    tokenizer = CLIPTokenizer.from_pretrained(with_text / "tokenizer")
    tokens = tokenizer.tokenize("a photo of a person, Turquoise zebra crossing")
    assert tokens[:6] == ["a</w>", "photo</w>", "of</w>", "a</w>", "person</w>", ",</w>"]
    assert tokens[-2:] == ["zebra</w>", "crossing</w>"] and len(tokens) > 9
    assert tokenizer.decode(tokenizer("Ünïcode 人")["input_ids"], skip_special_tokens=True) == "ünïcode 人"
    ids = tokenizer("navy trousers", padding="max_length", truncation=True)["input_ids"]
    assert len(ids) == tokenizer.model_max_length == 77
    assert (ids[0], {*ids[3:]}) == (len(tokenizer) - 2, {len(tokenizer) - 1})


def test_a_vocabulary_of_the_published_size_ends_with_the_published_tokens(tmp_path):
    assert write_tokenizer(["navy", "trousers"], tmp_path, CLIP_VOCABULARY) == 49408
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("navy trousers")["input_ids"]
    assert (len(tokenizer), ids[0], ids[-1], len(ids)) == (49408, 49406, 49407, 4)
    with pytest.raises(ValueError, match="size is 100; these words need"):
        write_tokenizer(["navy"], tmp_path, 100)


def test_the_same_words_give_the_same_tokenizer(tmp_path):
    words = [first + last for first in "abcdefgh" for last in "ijklmnop"]  # many pairs are equally frequent
    for number in range(4):
        write_tokenizer(words, tmp_path / str(number))
    for name in ("vocab.json", "merges.txt"):
        assert len({(tmp_path / str(number) / name).read_bytes() for number in range(4)}) == 1


def test_without_text_nothing_changes(tmp_path, capsys, with_text):
    plain = tmp_path / "plain"
    assert "wrote" in make(capsys, "--output", plain)
    assert {*json.loads((plain / "assets.json").read_text())} == {"size", "seed", "unet"}
    for part in ("unet", "vae", "scheduler"):
        for file in (plain / part).iterdir():
            assert file.read_bytes() == (with_text / part / file.name).read_bytes()
    assert "nothing to do" in make(capsys, "--output", with_text, "--text")
    with pytest.raises(SystemExit, match="something else than size tiny with seed 0 and text"):
        make(capsys, "--output", plain, "--text")
