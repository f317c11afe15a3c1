"""Captioners: BLIP-2 and other models of transformers, with random weights and the real loading code."""

import copy
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from fastreid.config import ConfigError, get_cfg
from fastreid.generation.captioners import CAPTIONER_REGISTRY
from fastreid.utils.registry import RegistryError

VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
}


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", "<image>", *"a photo of person wearing red blue top and jeans".split()]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", bos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="module")
def blip2_folder(tmp_path_factory, tokenizer):
    import torch
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessor,
        OPTConfig,
    )

    torch.manual_seed(0)
    text = OPTConfig(
        vocab_size=len(tokenizer), hidden_size=16, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2,
        word_embed_proj_dim=16, pad_token_id=0, eos_token_id=1, bos_token_id=1, max_position_embeddings=64,
    )  # fmt: skip
    queries = Blip2QFormerConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, encoder_hidden_size=16,
        vocab_size=len(tokenizer),
    )  # fmt: skip
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**VISION, patch_size=16).to_dict(),
        qformer_config=queries.to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=3,
    )
    folder = tmp_path_factory.mktemp("blip2")
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    picture = BlipImageProcessor(size={"height": 32, "width": 32})
    Blip2Processor(picture, tokenizer, num_query_tokens=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def blip_folder(tmp_path_factory, tokenizer):
    import torch
    from transformers import (
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
        BlipTextConfig,
        BlipVisionConfig,
    )

    torch.manual_seed(0)
    text = BlipTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        encoder_hidden_size=16, bos_token_id=1, eos_token_id=1, sep_token_id=1, pad_token_id=0,
    )  # fmt: skip
    config = BlipConfig(text_config=text.to_dict(), vision_config=BlipVisionConfig(**VISION, patch_size=16).to_dict())
    folder = tmp_path_factory.mktemp("blip")
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


_TEMPLATE = (
    "{% for m in messages %}{% for c in m.content %}{{ '<image> ' if c.type == 'image' else c.text }}"
    "{% endfor %}{% endfor %}"
)


def llava(folder, tokenizer, template):
    """Write a tiny vision-language model, with a template of chats or without."""
    import torch
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(0)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=0, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION, patch_size=16).to_dict(),
        text_config=text.to_dict(),
        image_token_index=3,
        vision_feature_layer=-1,
        image_seq_length=4,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    LlavaProcessor(
        CLIPImageProcessor(size=size, crop_size=size), tokenizer, patch_size=16,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=template,
    ).save_pretrained(folder)  # fmt: skip


def test_a_vision_language_model_is_asked_and_its_answer_is_the_caption(tmp_path, tokenizer, pictures):
    llava(tmp_path / "llava", tokenizer, _TEMPLATE)
    together = captioner("image-to-text", tmp_path / "llava")(pictures)
    alone = [captioner("image-to-text", tmp_path / "llava")([path])[0] for path in pictures]
    assert together == alone and all(len(text.split()) <= 5 for text in together)


def test_a_model_that_needs_a_text_is_named(tmp_path, tokenizer, pictures):
    llava(tmp_path / "llava", tokenizer, None)
    with pytest.raises(ConfigError, match=r"llava' \(LlavaForConditionalGeneration\) cannot caption pictures: "):
        captioner("image-to-text", tmp_path / "llava")(pictures)


@pytest.fixture
def pictures(tmp_path):
    draw, paths = np.random.default_rng(0), []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        Image.fromarray(draw.integers(0, 255, (48, 24, 3), dtype=np.uint8)).save(path)
        paths.append(str(path))
    return paths


def captioner(name, folder, *words):
    cfg = get_cfg()
    keys = ["MODEL.DEVICE", "cpu", "DIFFPERSON.LPE.CAPTIONER", name, "DIFFPERSON.LPE.MODEL", str(folder)]
    cfg.merge_from_list([*keys, "DIFFPERSON.LPE.MAX_TOKENS", "5", *words])
    return CAPTIONER_REGISTRY.get(name)(cfg)


@pytest.mark.parametrize("name", ["blip2", "image-to-text"])
def test_captions_of_models_of_transformers(name, blip2_folder, blip_folder, pictures):
    describe = captioner(name, {"blip2": blip2_folder, "image-to-text": blip_folder}[name])
    found = describe(pictures)
    assert len(found) == 3 and all(isinstance(text, str) and len(text.split()) <= 12 for text in found)
    assert found == describe(pictures)
    assert not any(text.startswith("a photo of a person wearing") for text in found)


@pytest.mark.parametrize("name", ["blip2", "image-to-text"])
def test_a_missing_model_is_named(name, tmp_path):
    with pytest.raises(ConfigError, match=r"LPE.MODEL is ..: name its folder, or take CAPTIONER file"):
        captioner(name, "")
    with pytest.raises(ConfigError, match=r"DIFFPERSON.LPE.MODEL: there is no folder .*gone"):
        captioner(name, tmp_path / "gone")


@pytest.mark.parametrize("name", ["blip2", "image-to-text"])
def test_a_model_whose_files_lack_weights_is_refused(tmp_path, name, blip2_folder, blip_folder):
    folder = tmp_path / "model"
    shutil.copytree({"blip2": blip2_folder, "image-to-text": blip_folder}[name], folder)
    stored = load_file(folder / "model.safetensors")
    kept = {key: tensor for key, tensor in stored.items() if not key.startswith("vision_model")}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"LPE\.MODEL '.*' cannot be read: its files lack \d+ of \d+ tensors of Blip"):
        captioner(name, folder)


def test_a_damaged_image_is_named(blip2_folder, pictures):
    with open(pictures[1], "wb") as file:
        file.write(b"junk")
    with pytest.raises(ConfigError, match=r"1\.png cannot be read.*Mend or remove it"):
        captioner("blip2", blip2_folder)(pictures)


def test_no_captions_and_unknown_captioners(pictures):
    assert captioner("none", "")(pictures) == ["", "", ""]
    with pytest.raises(RegistryError, match="did you mean 'blip2'"):
        CAPTIONER_REGISTRY.get("blip3", key="DIFFPERSON.LPE.CAPTIONER")
    with pytest.raises(ConfigError, match="reads DIFFPERSON.LPE.CAPTION_FILE"):
        captioner("file", "", "DIFFPERSON.LPE.CAPTION_FILE", "")
