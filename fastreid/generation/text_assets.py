"""A tokenizer and a text encoder with random weights, in the format of Stable Diffusion 1."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastreid.utils.files import atomic_write
from fastreid.utils.optional import hide_loading_bars

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77
CLIP_VOCABULARY = 49408
_END_OF_WORD = "</w>"

# The text encoder of Stable Diffusion 1: that of CLIP ViT-L/14. Its vocabulary and special tokens are the tokenizer's.
SD1_TEXT: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": MAX_TOKENS,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
_PIPELINE = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def words_of(grammar: Mapping[str, Any]) -> set[str]:
    """Return the words of all texts of a grammar, in lower case; names in braces are left out.

    Args:
        grammar: the content of its YAML file.
    """
    words: set[str] = set()
    for texts in (*grammar["words"].values(), *grammar["slots"].values(), [grammar["prefix"]]):
        for text in texts:
            words.update(re.findall(r"[a-z]+|[0-9]", re.sub(r"\{[^}]*\}", " ", text.lower())))
    return words


def write_tokenizer(words: Iterable[str], folder: Path, size: int = 0) -> int:
    """Write `vocab.json`, `merges.txt` and `tokenizer_config.json` of a CLIPTokenizer; return its number of tokens.

    Each of the words is one token. Other text is split into parts of these words, down to single bytes.

    Args:
        words: words in lower case.
        folder: the folder.
        size: number of tokens; the vocabulary is filled with tokens that no text contains. 0 for as many as needed.

    Raises:
        ValueError: the words need more tokens than `size`.
        DiskError: the disk is full or broken.
    """
    alphabet = _byte_characters()
    merges = _merges(sorted({*words}))
    tokens = [*alphabet, *(letter + _END_OF_WORD for letter in alphabet)]
    tokens += dict.fromkeys("".join(pair) for pair in merges)
    if size and len(tokens) + 2 > size:
        raise ValueError(f"size is {size}; these words need {len(tokens) + 2} tokens")
    tokens += [f"<|unused-{number}|>" for number in range(size - len(tokens) - 2)]
    tokens += [START, END]
    config = {
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": MAX_TOKENS,
        "tokenizer_class": "CLIPTokenizer",
    }
    files = {
        "vocab.json": json.dumps({token: number for number, token in enumerate(tokens)}, ensure_ascii=False),
        "merges.txt": "".join(f"{line}\n" for line in ["#version: 0.2", *map(" ".join, merges)]),
        "tokenizer_config.json": json.dumps(config, indent=1),
    }
    for name, content in files.items():
        with atomic_write(folder / name) as file:
            file.write(content)
    return len(tokens)


def _byte_characters() -> list[str]:
    """The 256 characters that stand for bytes, in CLIP's order: printable ones first."""
    from tokenizers.pre_tokenizers import ByteLevel

    printable = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]
    return printable + sorted({*ByteLevel.alphabet()} - {*printable})


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """The merges of byte-pair encoding that make every word one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=_END_OF_WORD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # Pairs that are equally frequent are merged in the order of their ids; those of last letters are random if they are
    # not given.
    last = sorted({word[-1] + _END_OF_WORD for word in words})
    trainer = trainers.BpeTrainer(
        vocab_size=CLIP_VOCABULARY,
        min_frequency=1,
        special_tokens=last,
        end_of_word_suffix=_END_OF_WORD,
        show_progress=False,
    )
    tokenizer.train_from_iterator(words, trainer)
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def write_text_parts(words: Iterable[str], folder: Path, shape: Mapping[str, Any], vocabulary: int = 0) -> None:
    """Add `tokenizer/`, `text_encoder/` and `model_index.json` to the other parts of a Stable Diffusion.

    Args:
        words: words in lower case that are one token each.
        folder: the folder of the parts.
        shape: arguments of `transformers.CLIPTextConfig`.
        vocabulary: number of tokens; 0 for as many as needed.

    Raises:
        DiskError: the disk is full or broken.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    hide_loading_bars()
    count = write_tokenizer(words, folder / "tokenizer", vocabulary)
    special: dict[str, Any] = {"bos_token_id": count - 2, "eos_token_id": count - 1, "pad_token_id": count - 1}
    encoder: Any = CLIPTextModel(CLIPTextConfig(vocab_size=count, **special, **shape))
    encoder.save_pretrained(folder / "text_encoder")
    with atomic_write(folder / "model_index.json") as file:
        file.write(json.dumps(_PIPELINE, indent=1))
