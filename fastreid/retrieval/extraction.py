"""Descriptors of images, each computed once however many protocols share the image."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.retrieval.checked import FeatureError
from fastreid.structures import PersonImage
from fastreid.utils import comm
from fastreid.utils.errors import ArgumentError
from fastreid.utils.progress import progress
from fastreid.utils.skipped import tell_skipped

logger = logging.getLogger(__name__)


class FeatureStore:
    """Descriptors by image path; every row is float32 [D] on the CPU.

    Attributes: skipped, {path: reason} of images that the loader left out.
    """

    def __init__(self) -> None:
        self._rows: dict[str, Tensor] = {}
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, path: str) -> bool:
        return path in self._rows

    def extract(
        self,
        model: nn.Module,
        loader: Iterable[Mapping[str, Any]],
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        *,
        flip: bool = False,
    ) -> dict[str, Tensor]:
        """Embed every image of the loader and remember the rows.

        With several processes each brings a loader over its own share (`my_share`); all end up with all rows.

        Args:
            model: `model(batch)` gives descriptors [B, D] in eval mode; its mode is put back.
            loader: batches with `img_paths`; has a length.
            autocast: makes the context in which the model runs; rows are float32 all the same.
            flip: the mean of an image's descriptor and its mirror image's.
        Returns: all rows, by path.
        Raises: ValueError if the model's output is no [B, D] or not finite, naming the image; if the loader left out
            every image.
        """
        start = time.perf_counter()
        paths: list[str] = []
        blocks: list[Tensor] = []
        with evaluation_mode(model), torch.inference_mode():
            for batch in progress(loader, len(loader), "extracting features"):
                rows = None
                for seen in (batch, mirrored(batch)) if flip else (batch,):
                    with autocast():
                        output = model(seen)
                    checked = _checked_rows(output, batch["img_paths"])
                    rows = checked if rows is None else (rows + checked) / 2
                blocks.append(rows)
                paths += batch["img_paths"]
        shares = comm.gather_plain([paths, getattr(loader, "skipped", {})])
        own = torch.cat(blocks) if blocks else torch.empty(0, 0)
        for (names, skipped), rows in zip(shares, comm.gather_rows(own), strict=True):
            self._rows.update(zip(names, rows, strict=True))
            self.skipped.update(skipped)
        if not self._rows:
            raise ArgumentError(f"no image could be embedded; {tell_skipped(self.skipped)}")
        seconds = time.perf_counter() - start
        logger.info("%d descriptors in %.1f s (%.0f images/s)", len(self), seconds, len(self) / seconds)
        return dict(self._rows)

    def select(self, images: Sequence[PersonImage]) -> Tensor:
        """Descriptors [N, D] of the images, in their order."""
        return torch.stack([self._rows[image.path] for image in images])


def my_share(images: Sequence[PersonImage]) -> list[PersonImage]:
    """The images this process embeds: equally many in each, as those of a sharded model must take every step together.

    What is missing to that is embedded once more.
    """
    if not images:
        raise ArgumentError("no images to embed")
    world_size = comm.get_world_size()
    missing = -len(images) % world_size
    return [*images, *(images[:1] * missing)][comm.get_rank() :: world_size]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each module has its own mode again, frozen parts too."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def mirrored(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with its images [B, 3, H, W] from right to left, as new tensors."""
    return {**batch, "images": batch["images"].flip(-1)}


def _checked_rows(output: Any, paths: Sequence[str]) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(paths):
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"the model must give descriptors [{len(paths)}, D] in eval mode, got {got}")
    rows = output.detach().float().cpu()
    finite = rows.isfinite().all(dim=1)
    if not finite.all():
        path = paths[int((~finite).nonzero()[0, 0])]
        raise FeatureError(
            f"the descriptor of image {path} is not finite ({int((~finite).sum())} of {len(paths)} of its batch are "
            "not): did the model diverge, or does MODEL.WEIGHTS hold NaN?"
        )
    return rows
