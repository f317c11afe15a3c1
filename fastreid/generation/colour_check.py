"""Whether the clothes of pictures have the colours of their captions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fastreid.generation.captioned import CaptionedPictures

# Rows, from the top, and columns of a crop of a person, as shares of its size.
_ROWS = {"upper": (0.24, 0.42), "lower": (0.56, 0.74)}
_COLUMNS = (0.36, 0.64)


def colours_of(captions: Sequence[str], colours: Sequence[str]) -> dict[str, list[list[str]]]:
    """Return the colours in the first slot ("upper") and in the second slot ("lower") of each caption.

    Args:
        captions: slots joined by ", ".
        colours: the words that are colours.
    """
    pattern = re.compile(rf"\b({'|'.join(colours)})\b")
    found: dict[str, list[list[str]]] = {part: [] for part in _ROWS}
    for caption in captions:
        for part, slot in zip(_ROWS, [*caption.split(", "), "", ""], strict=False):
            found[part].append(pattern.findall(slot))
    return found


class ColourCheck:
    """Compares the mean colours of two regions, trunk and legs, with those of pictures of clothes of one colour.

    Args:
        data: pictures with captions.
        colours: the words that are colours.
    """

    def __init__(self, data: CaptionedPictures, colours: Sequence[str]) -> None:
        self._colours = colours
        self._known: dict[str, dict[str, Tensor]] = {}
        for part, names in colours_of(data.captions, colours).items():
            means = _means(data.pictures, part)
            self._known[part] = {
                colour: means[[name == [colour] for name in names]].median(dim=0).values
                for colour in colours
                if [colour] in names
            }

    def share_right(self, data: CaptionedPictures) -> Mapping[str, float]:
        """Return the share of pictures whose region is nearest to a colour of its slot, for "upper" and "lower".

        Args:
            data: pictures with the captions that they should show.
        """
        shares = {}
        for part, names in colours_of(data.captions, self._colours).items():
            known = self._known[part]
            table = torch.stack(list(known.values()))
            nearest = torch.cdist(_means(data.pictures, part), table).argmin(dim=1)
            right = [[*known][int(k)] in name for k, name in zip(nearest, names, strict=True) if {*name} & known.keys()]
            shares[part] = sum(right) / max(len(right), 1)
        return shares


def _means(pictures: Tensor, part: str) -> Tensor:
    """Mean colours [N, 3] of a region of pictures [N, 3, H, W]."""
    height, width = pictures.shape[2:]
    top, bottom = (round(share * height) for share in _ROWS[part])
    left, right = (round(share * width) for share in _COLUMNS)
    return pictures[:, :, top:bottom, left:right].float().mean(dim=(2, 3))
