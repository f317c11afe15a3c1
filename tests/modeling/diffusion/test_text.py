"""The text encoder: the identity word's vectors stand at its place, and nothing else of the prompt moves."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastreid.modeling.diffusion import AssetError, OptionError
from fastreid.modeling.diffusion.text import TextEncoder
from tests.methods.diffusion_reid.conftest import assets  # noqa: F401

PROMPT = "a photo of a <id> person, red top"


@pytest.fixture(scope="module")
def folder(assets):  # noqa: F811
    return assets


def encoder(folder, count=1):
    return TextEncoder.from_pretrained(str(folder), num_vectors=count)


@pytest.mark.parametrize("count", [1, 3])
def test_later_tokens_move_by_the_number_of_vectors_and_the_length_stays(folder, count):
    text = encoder(folder, count)
    plain, named = (text.encode([prompt]) for prompt in (PROMPT.replace("<id> ", ""), PROMPT))
    assert named.ids.shape == plain.ids.shape == (1, 77)
    (places,) = named.places.tolist()
    assert places == list(range(places[0], places[0] + count)) and plain.places.tolist() == [[-1] * count]
    before, after = places[0], 77 - places[0] - count
    assert torch.equal(named.ids[0, :before], plain.ids[0, :before])
    assert torch.equal(named.ids[0, before + count :], plain.ids[0, before : before + after])
    assert int(named.ids[0, 0]) == text.tokenizer.bos_token_id


def test_vectors_stand_at_the_place_of_the_word(folder):
    text = encoder(folder, 2)
    prompts, seen = text.encode([PROMPT, "a dog", "<id>"]), []
    vectors = torch.randn(3, 2, text.dim)
    handle = text.model.get_input_embeddings().register_forward_hook(lambda *call: seen.append(call[2]))
    with text._spliced(prompts.places, vectors):
        embedded = text.model.get_input_embeddings()(prompts.ids)
    handle.remove()
    changed = (embedded != seen[0]).any(dim=2)
    expected = torch.zeros(3, 77, dtype=torch.bool)
    for row in (0, 2):
        expected[row, prompts.places[row]] = True
        assert torch.equal(embedded[row, prompts.places[row]], vectors[row])
    assert torch.equal(changed, expected)
    after = text.model.get_input_embeddings()(prompts.ids)
    assert torch.equal(after, seen[0])  # the hook is gone


def test_only_the_vectors_get_a_gradient(folder):
    text = encoder(folder)
    vectors = torch.randn(2, 1, text.dim, requires_grad=True)
    text(text.encode([PROMPT, PROMPT]), vectors).square().sum().backward()
    assert vectors.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in text.parameters())


def test_other_vectors_change_the_tokens_from_the_place_on(folder):
    text = encoder(folder)
    prompts = text.encode([PROMPT])
    first, second = (text(prompts, torch.randn(1, 1, text.dim)) for _ in range(2))
    place = int(prompts.places[0, 0])
    assert torch.equal(first[:, :place], second[:, :place])  # the attention is causal
    assert (first[:, place:] - second[:, place:]).abs().amax(dim=2).min() > 0


def test_a_long_caption_is_cut_and_the_word_stays(folder):
    text = encoder(folder, 2)
    long = "red top, " * 80
    for prompt in (f"a <id> person, {long}", f"{long} <id>", "<id> " + long):
        found = text.encode([prompt])
        assert found.places.min() > 0 and found.places.max() < 76
        assert int(found.ids[0, -1]) == text.tokenizer.eos_token_id
    assert text.encode([""]).ids[0, :2].tolist() == [text.tokenizer.bos_token_id, text.tokenizer.eos_token_id]


def test_wrong_prompts(folder):
    text = encoder(folder)
    with pytest.raises(OptionError, match="<id> at most once"):
        text.encode(["<id> and <id>"])
    with pytest.raises(OptionError, match="no vectors for it"):
        text(text.encode([PROMPT]))
    for count in (0, 39):
        with pytest.raises(OptionError, match="num_vectors must be from 1 to 38"):
            encoder(folder, count)


def test_a_smaller_tokenizer_is_told(folder, tmp_path, caplog):
    encoder(folder)
    assert "prompts have no meaning" not in caplog.text
    copy = tmp_path / "sd"
    shutil.copytree(folder, copy)
    words = json.loads((copy / "tokenizer/vocab.json").read_text())
    last = max((word for word in words if "<|" not in word), key=words.get)
    del words[last]
    (copy / "tokenizer/vocab.json").write_text(json.dumps(words))
    merges = copy / "tokenizer/merges.txt"
    merges.write_text("".join(pair for pair in merges.open() if pair.replace(" ", "").strip() != last))
    encoder(copy)
    assert re.search(r"sd.*: the tokenizer has \d+ tokens, the text encoder vectors for \d+: prompts", caplog.text)


def test_files_that_do_not_fit(folder, tmp_path):
    copy = tmp_path / "sd"
    shutil.copytree(folder, copy)
    vocabulary = (copy / "tokenizer/vocab.json").read_text()
    count = vocabulary.count(":")
    (copy / "tokenizer/vocab.json").write_text(vocabulary[:-1] + ', "moretokens": 99999}')
    with pytest.raises(AssetError, match="sd.*: the tokenizer has .* tokens, the text encoder has vectors for"):
        encoder(copy)
    assert count > 300
    shutil.rmtree(copy / "tokenizer")
    with pytest.raises(AssetError, match=r"no tokenizer in .*tools/make_assets.py"):
        encoder(copy)
    shutil.copytree(folder / "tokenizer", copy / "tokenizer")
    (copy / "text_encoder/model.safetensors").write_bytes(b"junk")
    with pytest.raises(AssetError, match="cannot read the text encoder in"):
        encoder(copy)


def test_a_text_encoder_that_lacks_weights_is_named(folder, tmp_path):
    copy = tmp_path / "sd"
    shutil.copytree(folder, copy)
    file = copy / "text_encoder/model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if "mlp" not in name}
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(AssetError, match=r"cannot read the text encoder in .*sd.*: its files lack \d+ of \d+ tensors"):
        TextEncoder.from_pretrained(str(copy))
