"""Prompts from captions: a template with the identity word."""

from __future__ import annotations

import re

from fastreid.config import ConfigError
from fastreid.modeling.diffusion.text import IDENTITY_WORD

CAPTION = "{caption}"


def check_template(template: str, *, has_words: bool) -> None:
    """Check a template of prompts.

    Args:
        template: text with `<id>` and `{caption}`.
        has_words: whether there are identity words.

    Raises:
        ConfigError: it lacks `{caption}`, has a part twice, or has no `<id>` though there are identity words.
    """
    key = f"DIFFPERSON.LPE.TEMPLATE {template!r}"
    if template.count(CAPTION) != 1:
        raise ConfigError(f"{key} must have {CAPTION} once: the caption of the image stands there")
    if template.count(IDENTITY_WORD) > 1 or (has_words and IDENTITY_WORD not in template):
        raise ConfigError(
            f"{key} must have {IDENTITY_WORD} once: the identity word stands there (DIFFPERSON.IIR.MODE off has none)"
        )


def prompt_of(template: str, caption: str, *, has_words: bool) -> str:
    """Return the prompt of a caption.

    Args:
        template: the template.
        caption: the caption; it may be empty.
        has_words: whether there are identity words; without them the template's `<id>` is left out.
    """
    # An identity word in a caption would be a second one.
    prompt = template.replace(CAPTION, caption.replace(IDENTITY_WORD, " ").strip(" ,."))
    if not has_words:
        prompt = prompt.replace(IDENTITY_WORD, " ")
    prompt = re.sub(r"\s+", " ", prompt)
    return re.sub(r"\s+,", ",", prompt).strip(" ,")
