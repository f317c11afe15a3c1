"""Captioners: pictures to captions, by a file, by BLIP-2, or by another image-to-text model of transformers."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from fastreid.config import CfgNode, ConfigError, resolve_device
from fastreid.data.build import datasets_root
from fastreid.methods.diffusion_reid.captions import captions_of, read_captions
from fastreid.utils.errors import first_line_of
from fastreid.utils.registry import Registry
from fastreid.utils.transformers_model import load_transformers_model

Captioner = Callable[[Sequence[str]], list[str]]
"""Paths of pictures -> their captions."""

CAPTIONER_REGISTRY = Registry("captioner")
"""DIFFPERSON.LPE.CAPTIONER -> function (cfg) -> `Captioner`."""

_MODEL = "DIFFPERSON.LPE.MODEL"
_QUESTION = "Describe the person and the clothes in one sentence that begins with: {}"


def _read_rgb(path: str) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError) as error:
        raise ConfigError(f"the training image {path} cannot be read: {error}. Mend or remove it") from error


def from_file(cfg: CfgNode) -> Captioner:
    """Return the captions of DIFFPERSON.LPE.CAPTION_FILE.

    Raises:
        ConfigError: no file, or it is damaged; later, if an image has no caption.
    """
    path = cfg.DIFFPERSON.LPE.CAPTION_FILE
    if not path:
        raise ConfigError(
            'DIFFPERSON.LPE.CAPTIONER file reads DIFFPERSON.LPE.CAPTION_FILE, which is ""; each of its lines is '
            '{"image": PATH, "caption": TEXT}'
        )
    captions = read_captions(path, datasets_root(cfg))
    return lambda paths: captions_of(paths, captions, path)


def _folder(cfg: CfgNode) -> str:
    folder = cfg.DIFFPERSON.LPE.MODEL
    if not folder:
        raise ConfigError(
            f"DIFFPERSON.LPE.CAPTIONER {cfg.DIFFPERSON.LPE.CAPTIONER} reads a model of transformers, but {_MODEL} is "
            '"": name its folder, or take CAPTIONER file with captions that you have, or CAPTIONER none'
        )
    if not os.path.isdir(os.path.expanduser(folder)):
        raise ConfigError(f"{_MODEL}: there is no folder {folder}; download the model into it, or name its folder")
    return folder


def _loaded(load: Callable[[], Any], folder: str) -> Any:
    try:
        return load()
    except Exception as error:  # transformers may raise any error for missing or damaged files
        raise ConfigError(f"{_MODEL} {folder!r} cannot be read: {first_line_of(error)[:400]}") from error


def blip2(cfg: CfgNode) -> Captioner:
    """Return BLIP-2 (Li et al., ICML 2023), which continues DIFFPERSON.LPE.PREFIX.

    Raises:
        ConfigError: DIFFPERSON.LPE.MODEL cannot be read.
    """
    from transformers import AutoProcessor, Blip2ForConditionalGeneration

    folder, keys = _folder(cfg), cfg.DIFFPERSON.LPE
    device = resolve_device(cfg.MODEL.DEVICE)
    processor = _loaded(functools.partial(AutoProcessor.from_pretrained, folder, local_files_only=True), folder)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = _loaded(
        functools.partial(load_transformers_model, Blip2ForConditionalGeneration, folder, dtype=dtype), folder
    )
    model = model.to(device).eval()

    @torch.no_grad()
    def captions(paths: Sequence[str]) -> list[str]:
        pictures = [_read_rgb(path) for path in paths]
        prefixes = [keys.PREFIX] * len(pictures)
        inputs = processor(images=pictures, text=prefixes, return_tensors="pt", padding=True).to(device, dtype)
        tokens = model.generate(**inputs, max_new_tokens=keys.MAX_TOKENS, do_sample=False)
        return [_without(text, keys.PREFIX) for text in processor.batch_decode(tokens, skip_special_tokens=True)]

    return captions


def image_to_text(cfg: CfgNode) -> Captioner:
    """Return another image-to-text model of transformers, such as GIT or a vision-language model (LLaVA).

    A model with a template of chats is asked for a sentence that begins with DIFFPERSON.LPE.PREFIX.

    Raises:
        ConfigError: DIFFPERSON.LPE.MODEL cannot be read; later, if it cannot caption pictures.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder, keys = _folder(cfg), cfg.DIFFPERSON.LPE
    device = resolve_device(cfg.MODEL.DEVICE)
    processor = _loaded(functools.partial(AutoProcessor.from_pretrained, folder, local_files_only=True), folder)
    model = _loaded(functools.partial(load_transformers_model, AutoModelForImageTextToText, folder), folder)
    model = model.to(device).eval()

    question: dict[str, Any] = {}
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": _QUESTION.format(keys.PREFIX)}]
        ask = functools.partial(processor.apply_chat_template, add_generation_prompt=True)
        question = {"text": _loaded(lambda: ask([{"role": "user", "content": content}]), folder), "padding": True}
        processor.tokenizer.padding_side = "left"  # the answer follows the last token of each row

    @torch.no_grad()
    def captions(paths: Sequence[str]) -> list[str]:
        pictures = [_read_rgb(path) for path in paths]
        asked = question and {**question, "text": [question["text"]] * len(pictures)}
        try:
            inputs = processor(images=pictures, return_tensors="pt", **asked).to(device)
            tokens = model.generate(**inputs, max_new_tokens=keys.MAX_TOKENS, do_sample=False)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ConfigError(
                f"{_MODEL} {folder!r} ({type(model).__name__}) cannot caption pictures: {error}. Take a model that "
                "captions pictures, or that has a template of chats, or caption by other means and take CAPTIONER file"
            ) from error
        answers = tokens[:, inputs["input_ids"].shape[1] :] if question else tokens
        return [_without(text, keys.PREFIX) for text in processor.batch_decode(answers, skip_special_tokens=True)]

    return captions


def _without(text: str, prefix: str) -> str:
    """Return a caption in lower case, without the text that it continues."""
    text = " ".join(text.lower().split())
    return text.removeprefix(prefix.lower()).strip(" ,.")


def no_captions(cfg: CfgNode) -> Captioner:
    """Return empty captions."""
    return lambda paths: [""] * len(paths)


for _name, _make in {"file": from_file, "blip2": blip2, "image-to-text": image_to_text, "none": no_captions}.items():
    CAPTIONER_REGISTRY.register(_make, name=_name)
