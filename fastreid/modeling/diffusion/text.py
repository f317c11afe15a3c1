"""The frozen text encoder of Stable Diffusion: prompts to tokens, with vectors in place of an identity word."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.modeling.diffusion.assets import AssetError, asset_folder, shown
from fastreid.modeling.diffusion.option_error import OptionError
from fastreid.utils.devices import to_device
from fastreid.utils.errors import first_line_of, sentence_of
from fastreid.utils.transformers_model import load_transformers_model

logger = logging.getLogger(__name__)

IDENTITY_WORD = "<id>"
"""The word of a prompt that stands for a person."""
_ADVICE = ". `python tools/make_assets.py --text` writes random ones"
_NO_PLACE = -1


@dataclass(frozen=True)
class EncodedPrompts:
    """Prompts as numbers.

    Attributes:
        ids: tokens [B, L].
        places: positions of the identity word's vectors [B, m]; -1 in prompts without the word.
        has_words: whether a prompt has the word.
    """

    ids: Tensor
    places: Tensor
    has_words: bool

    def to(self, device: torch.device) -> EncodedPrompts:
        """Return them on a device."""
        return EncodedPrompts(to_device(self.ids, device), to_device(self.places, device), self.has_words)


class TextEncoder(nn.Module):
    """Prompts -> tokens [B, L, D] for the cross-attention of a UNet. It is frozen and in eval mode.

    The word `<id>` of a prompt takes the places of m tokens. Their embeddings are replaced by vectors, which may need
    a gradient; the other tokens and the length L do not change.

    Args:
        tokenizer: a `transformers.CLIPTokenizer`.
        model: a `transformers.CLIPTextModel`.
        num_vectors: m.

    Raises:
        AssetError: the tokenizer has more tokens than the model.
        OptionError: no vectors, or so many that no prompt has room for them.
    """

    model: Any  # mypy sees no members of transformers' models

    def __init__(self, tokenizer: Any, model: Any, *, num_vectors: int = 1) -> None:
        super().__init__()
        self.model, self.tokenizer = model.requires_grad_(False).eval(), tokenizer
        self.length = min(int(tokenizer.model_max_length), model.config.max_position_embeddings)
        rows = self._table.num_embeddings
        if len(tokenizer) > rows:
            raise AssetError(
                f"the tokenizer has {len(tokenizer)} tokens, the text encoder has vectors for {rows}: they are not of "
                "the same model; take both from the folder of one Stable Diffusion"
            )
        if not 1 <= num_vectors <= self.length // 2:
            raise OptionError(
                f"num_vectors must be from 1 to {self.length // 2}, half of a prompt's tokens; got {num_vectors}",
                "num_vectors",
            )
        self.num_vectors = num_vectors

    @classmethod
    def from_pretrained(cls, folder: str, *, num_vectors: int = 1, key: str = "") -> TextEncoder:
        """Read `tokenizer/` and `text_encoder/` of a pipeline of diffusers.

        Args:
            folder: folder of the pipeline.
            num_vectors: as in the constructor.
            key: config key that names the folder, for error messages.

        Raises:
            AssetError: a part is missing or damaged, or they do not fit each other.
            OptionError: as the constructor.
        """
        from transformers import CLIPTextModel, CLIPTokenizer

        named = shown(folder, key)
        words = asset_folder(folder, "tokenizer", "tokenizer_config.json", key=key, advice=_ADVICE)
        weights = asset_folder(folder, "text_encoder", "config.json", key=key, advice=_ADVICE)
        tokenizer = _read(
            functools.partial(CLIPTokenizer.from_pretrained, words, local_files_only=True), "tokenizer", named
        )
        model = _read(functools.partial(load_transformers_model, CLIPTextModel, weights), "text encoder", named)
        _check_words(tokenizer, words)
        if len(tokenizer) < (rows := model.get_input_embeddings().num_embeddings):
            logger.warning(
                "%s: the tokenizer has %d tokens, the text encoder vectors for %d: prompts have no meaning if they are "
                "not of the same model", named, len(tokenizer), rows,
            )  # fmt: skip
        try:
            return cls(tokenizer, model.float(), num_vectors=num_vectors)
        except AssetError as error:
            raise AssetError(f"{named}: {error}") from None

    def train(self, mode: bool = True) -> TextEncoder:
        """Stay in eval mode."""
        return super().train(False)

    @property
    def dim(self) -> int:
        """Width D of the tokens."""
        return self.model.config.hidden_size

    @property
    def _table(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    @property
    def mean_norm(self) -> float:
        """Mean length of the vectors of the tokens."""
        return float(self._table.weight.float().norm(dim=1).mean())

    def vector_of(self, word: str) -> Tensor:
        """Return the vector of the first token of a word, [D], a copy."""
        token = self.tokenizer(word, add_special_tokens=False)["input_ids"][0]
        return self._table.weight[token].detach().clone()

    def encode(self, prompts: Sequence[str]) -> EncodedPrompts:
        """Return prompts as numbers. What does not fit into L tokens is cut at the end, never the identity word.

        Args:
            prompts: texts with the identity word at most once.

        Raises:
            OptionError: a prompt has the identity word twice.
        """
        rows, places = zip(*(self._encoded(prompt) for prompt in prompts), strict=True)
        is_placed = any(place != _NO_PLACE for of_prompt in places for place in of_prompt)
        return EncodedPrompts(torch.tensor(rows), torch.tensor(places), is_placed)

    def _encoded(self, prompt: str) -> tuple[list[int], list[int]]:
        before, *after = prompt.split(IDENTITY_WORD)
        if len(after) > 1:
            raise OptionError(f"a prompt has {IDENTITY_WORD} at most once, got {prompt!r}", "prompt")
        first, last = self._tokens(before), self._tokens(after[0]) if after else []
        room, count = self.length - 2, self.num_vectors if after else 0
        first = first[: room - count]
        end = self.tokenizer.eos_token_id
        place = [end] * count  # any token: its vector is replaced
        inside = (first + place + last)[:room]
        ids = [self.tokenizer.bos_token_id, *inside, end]
        ids += [self.tokenizer.pad_token_id] * (self.length - len(ids))
        start = 1 + len(first)
        return ids, list(range(start, start + count)) if count else [_NO_PLACE] * self.num_vectors

    def _tokens(self, text: str) -> list[int]:
        text = text.strip()
        return (
            self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"] if text else []
        )

    def forward(self, prompts: EncodedPrompts, vectors: Tensor | None = None) -> Tensor:
        """Return the tokens [B, L, D] of prompts.

        Args:
            prompts: what `encode` returned, on the device of the encoder.
            vectors: [B, m, D], for the identity words; None if no prompt has one.

        Raises:
            OptionError: a prompt has an identity word, and there are no vectors.
        """
        if vectors is None and prompts.has_words:
            raise OptionError(f"a prompt has {IDENTITY_WORD}, but there are no vectors for it", "vectors")
        with self._spliced(prompts.places, vectors):
            return self.model(prompts.ids).last_hidden_state

    @contextmanager
    def _spliced(self, places: Tensor, vectors: Tensor | None) -> Iterator[None]:
        """Replace the embeddings at the places; transformers' text encoder takes no embeddings as an argument."""
        if vectors is None:
            yield
            return
        rows = torch.arange(len(places), device=places.device)[:, None].expand_as(places)

        def replace(module: nn.Module, args: Any, embedded: Tensor) -> Tensor:
            kept = places < 0
            old = embedded[rows, places.clamp_min(0)]
            new = torch.where(kept[..., None], old, vectors.to(embedded.dtype))
            return embedded.index_put((rows, places.clamp_min(0)), new)

        handle = self._table.register_forward_hook(replace)
        try:
            yield
        finally:
            handle.remove()


def _read(load: Callable[[], Any], what: str, named: str) -> Any:
    try:
        return load()
    except Exception as error:  # transformers and safetensors may raise any error for damaged files
        if sentence_of(error):  # out of memory
            raise
        raise AssetError(f"cannot read the {what} in {named}: {first_line_of(error)[:400]}") from error


def _check_words(tokenizer: Any, folder: Path) -> None:
    """Check that a tokenizer has the special tokens that prompts begin and end with."""
    lacking = [name for name in ("bos", "eos", "pad") if getattr(tokenizer, f"{name}_token_id") is None]
    if lacking:
        raise AssetError(f"the tokenizer in {folder} has no {', '.join(lacking)} token: one of CLIP is needed")
