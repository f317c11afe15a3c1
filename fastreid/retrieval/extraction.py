"""Feature extraction: descriptors of images by path; each is computed once, even if several protocols share it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fastreid.retrieval.descriptors import FeatureError
from fastreid.structures import PersonImage
from fastreid.utils import comm
from fastreid.utils.errors import ArgumentError
from fastreid.utils.progress import progress
from fastreid.utils.skipped import describe_skipped

logger = logging.getLogger(__name__)


class BatchLoader(Protocol):
    """Batches with `img_paths`, in a fixed order."""

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """Yield the batches."""

    def __len__(self) -> int:
        """Return the number of batches."""


@runtime_checkable
class SkippingLoader(Protocol):
    """A loader that can skip images that cannot be read: {path: reason}."""

    skipped: Mapping[str, str]


class FeatureStore:
    """Descriptors by image path; every row is float32 [D] on the CPU.

    Attributes:
        skipped: {path: reason} of images that the loader skipped.
    """

    def __init__(self) -> None:
        """Initialize without descriptors."""
        self._rows: dict[str, Tensor] = {}
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        """Return the number of descriptors."""
        return len(self._rows)

    def __contains__(self, path: str) -> bool:
        """Return whether an image has a descriptor."""
        return path in self._rows

    def extract(
        self,
        model: nn.Module,
        loader: BatchLoader,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        *,
        flip: bool = False,
    ) -> dict[str, Tensor]:
        """Embed every image of the loader and store the rows.

        With several processes, each gives a loader over its own share (`my_share`); all of them get all rows.

        Args:
            model: `model(batch)` returns descriptors [B, D] in eval mode; its mode is restored.
            loader: batches with `img_paths`; has a length.
            autocast: returns the context in which the model runs; rows are float32 in any case.
            flip: average each image's descriptor with that of its mirror image.

        Returns:
            All rows, by path.

        Raises:
            ValueError: the model's output is not [B, D] or not finite (the message names the image), or the loader
                skipped every image.
        """
        start = time.perf_counter()
        paths: list[str] = []
        blocks: list[Tensor] = []
        pending: list[tuple[Tensor, Sequence[str]]] = []
        with evaluation_mode(model), torch.inference_mode():
            for batch in progress(loader, len(loader), "extracting features"):
                # A GPU computes this batch while the rows of the one before are copied and checked.
                pending.append((_embed(model, batch, autocast, flip), batch["img_paths"]))
                blocks += [_on_cpu(*pending.pop(0))] if len(pending) > 1 else []
                paths += batch["img_paths"]
            blocks += [_on_cpu(*last) for last in pending]
        skipped = loader.skipped if isinstance(loader, SkippingLoader) else {}
        shares = comm.gather_plain([paths, skipped])
        own = torch.cat(blocks) if blocks else torch.empty(0, 0)
        for (names, skipped), rows in zip(shares, comm.gather_rows(own), strict=True):
            self._rows.update(zip(names, rows, strict=True))
            self.skipped.update(skipped)
        if not self._rows:
            raise ArgumentError(f"no image could be embedded; {describe_skipped(self.skipped)}")
        seconds = time.perf_counter() - start
        logger.info("%d descriptors in %.1f s (%.0f images/s)", len(self), seconds, len(self) / seconds)
        return dict(self._rows)

    def select(self, images: Sequence[PersonImage]) -> Tensor:
        """Return the descriptors [N, D] of the images, in their order."""
        return torch.stack([self._rows[image.path] for image in images])


def my_share(images: Sequence[PersonImage]) -> list[PersonImage]:
    """Return the images that this process embeds.

    Each process embeds the same number, as the processes of a sharded model must take every step together; to reach it,
    the first image is embedded several times.

    Raises:
        ArgumentError: there are no images.
    """
    if not images:
        raise ArgumentError("no images to embed")
    world_size = comm.get_world_size()
    missing = -len(images) % world_size
    return [*images, *[images[0]] * missing][comm.get_rank() :: world_size]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Set eval mode in the block; afterwards restore the mode of each module, frozen parts included."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def mirrored(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the batch with its images and their further views [B, C, H, W] flipped horizontally, as new tensors."""
    views = {name: value for name, value in batch.items() if isinstance(value, Tensor) and value.ndim == 4}
    return {**batch, **{name: view.flip(-1) for name, view in {"images": batch["images"], **views}.items()}}


def embed_batch(
    model: nn.Module,
    batch: Mapping[str, Any],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    *,
    flip: bool = False,
) -> Tensor:
    """Return the descriptors of a batch, float32 [B, D] on the CPU; call it in inference mode.

    Args:
        model: in eval mode.
        batch: with `img_paths`.
        autocast: returns the context in which the model runs.
        flip: average each image's descriptor with that of its mirror image.

    Raises:
        ValueError: the model's output is not [B, D] or not finite; the message names the image.
    """
    return _on_cpu(_embed(model, batch, autocast, flip), batch["img_paths"])


def _embed(
    model: nn.Module, batch: Mapping[str, Any], autocast: Callable[[], AbstractContextManager[Any]], flip: bool
) -> Tensor:
    """The descriptors on the device of the model, float32; nothing is waited for."""
    found = []
    for images in (batch, mirrored(batch)) if flip else (batch,):
        with autocast():
            output = model(images)
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(batch["img_paths"]):
            got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"the model must give descriptors [{len(batch['img_paths'])}, D] in eval mode, got {got}")
        found.append(output.detach().float())
    return (found[0] + found[1]) / 2 if flip else found[0]


def _on_cpu(rows: Tensor, paths: Sequence[str]) -> Tensor:
    rows = rows.cpu()
    finite = rows.isfinite().all(dim=1)
    if not finite.all():
        path = paths[int((~finite).nonzero()[0, 0])]
        raise FeatureError(
            f"the descriptor of image {path} is not finite ({int((~finite).sum())} of {len(paths)} of its batch are "
            "not): did the model diverge, or does MODEL.WEIGHTS hold NaN?"
        )
    return rows
