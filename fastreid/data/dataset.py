"""Images of people as torch data sets: decoded, transformed, and for training with reproducible augmentations."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from fastreid.data.images import ImageAccessError, ImageReadError, read_pixels
from fastreid.data.samplers.draws import Draw
from fastreid.data.transforms import DrawMirroring, PersonTransform, Pixels
from fastreid.structures import Batch, PersonImage
from fastreid.utils.errors import ArgumentError
from fastreid.utils.skipped import describe_skipped

Transform = PersonTransform | DrawMirroring | Callable[[Image.Image], Tensor]
"""Makes one view of a sample: a `PersonTransform`, a `DrawMirroring` (without pixels), or a user-defined function from
a Pillow image to a tensor."""
Item = dict[str, Any]

_OTHER_KEYS = Batch.__annotations__.keys() - {"images"}


class PersonDataset(Dataset[Item]):
    """Decoded and transformed images of people.

    An item has the keys of `Batch` and one key for each further view. A view is here a version of the image that a
    transform makes, not the view of a camera. Views of a `PersonTransform` are float32 in `dataset[index]`; in the
    batches of a loader's workers they are `Pixels`, which `PersonLoader` converts to float.

    Args:
        images: the images, in order.
        transforms: name of a view -> its transform; "images" is the view that every model gets.
        labels: `targets` per image; the person ids by default.
        skip_unreadable: an image that cannot be read is an item with the key "skipped" alone, [(path, reason)].

    Raises:
        ArgumentError: there is no view "images", or a view has the name of another key of a batch.
        ImageReadError: from `__getitem__`, if the file cannot be decoded and is not skipped.
    """

    def __init__(
        self,
        images: Sequence[PersonImage],
        transforms: Mapping[str, Transform],
        labels: Sequence[int] | None = None,
        *,
        skip_unreadable: bool = False,
    ) -> None:
        if "images" not in transforms:
            raise ArgumentError(f"the views of a sample are {list(transforms)}; 'images' must be one of them")
        if taken := _OTHER_KEYS & transforms.keys():
            raise ArgumentError(f"views of a sample cannot be called {sorted(taken)}: batches have other values there")
        self.images, self.transforms, self.skip_unreadable = images, transforms, skip_unreadable
        self._needs_pixels = not all(isinstance(transform, DrawMirroring) for transform in transforms.values())
        self._has_attributes = _have_attributes(images)
        self.labels: Sequence[int] = [image.person for image in images] if labels is None else labels

    @property
    def num_classes(self) -> int:
        """Number of different labels; negative ones do not count."""
        return len({label for label in self.labels if label >= 0})

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        """Return an item whose views are float32 [3, H, W] in 0..255."""
        return with_floats(self.__getitems__([index])[0], self.transforms, "cpu")

    def __getitems__(self, indices: Sequence[Any]) -> list[Item]:
        """Return the items of a batch with `Pixels`; torch's loaders call this instead of `__getitem__`."""
        return [self._first_readable([index]) for index in indices]

    def _first_readable(self, candidates: Iterable[int], draw: Draw | None = None) -> Item:
        """The item of the first of some images that can be read."""
        skipped: list[tuple[str, str]] = []
        for index in candidates:
            try:
                item = self._item(index, draw)
            except ImageAccessError:
                raise
            except ImageReadError as error:
                if not self.skip_unreadable:
                    raise
                skipped.append((self.images[index].path, error.reason))
            else:
                return item | {"skipped": skipped} if skipped else item
        return self._nothing(skipped)

    def _nothing(self, skipped: list[tuple[str, str]]) -> Item:
        return {"skipped": skipped}

    def _item(self, index: int, draw: Draw | None) -> Item:
        image = self.images[index]
        pixels = read_pixels(image.path) if self._needs_pixels else np.empty(0, np.uint8)
        views = {name: self._view(name, pixels, draw) for name in self.transforms}
        known = {"attributes": torch.tensor(image.attributes, dtype=torch.float32)} if self._has_attributes else {}
        return {
            **views,
            **known,
            "targets": self.labels[index],
            "camids": image.camera,
            "viewids": int(image.view),
            "img_paths": image.path,
            "indices": index,
        }

    def _view(self, name: str, pixels: np.ndarray, draw: Draw | None) -> Pixels | Tensor:
        return view_of(pixels, self.transforms[name])


def _have_attributes(images: Sequence[PersonImage]) -> bool:
    """Whether all images have attributes, and the same number of them, so that they can be collated."""
    counts = {len(image.attributes) for image in images}
    return len(counts) == 1 and counts != {0}


def view_of(pixels: np.ndarray, transform: Transform) -> Pixels | Tensor:
    """Return one view of a decoded image, as it is collated.

    Args:
        pixels: uint8 [h, w, 3].
        transform: makes the view.
    """
    if isinstance(transform, DrawMirroring):
        return transform()
    if isinstance(transform, PersonTransform):
        return transform.pixels(pixels)
    return transform(Image.fromarray(pixels))


class TrainingDataset(PersonDataset):
    """A training set whose augmentations follow from each draw's number in the run.

    The same run with other DATALOADER.NUM_WORKERS, in more processes, or resumed, therefore sees the same images. Each
    view draws its random numbers from a stream of its own, so further views do not change "images".

    The index of an item is a `Draw`; image number n alone stands for the n-th draw. An item has two more keys, its
    "position" in the batch of all processes and the "batch_size" of that batch. With `skip_unreadable`, another image
    of the same label replaces an image that cannot be read, or else any other image.

    Args:
        images: the images, in order.
        transforms: name of a view -> its transform.
        labels: class label per image.
        seed: seed of the run.
        batch_size: images per step, of all processes together.
        skip_unreadable: replace images that cannot be read.

    Raises:
        ImageReadError: from `__getitem__`, if neither the image nor as many others as there are images can be read.
    """

    def __init__(
        self,
        images: Sequence[PersonImage],
        transforms: Mapping[str, Transform],
        labels: Sequence[int],
        *,
        seed: int,
        batch_size: int,
        skip_unreadable: bool = False,
    ) -> None:
        super().__init__(images, transforms, skip_unreadable=skip_unreadable)
        self._seed, self._batch_size = seed, batch_size
        # A user-defined transform may use the generators of Python and NumPy; seeding those takes longer than torch's.
        self._torch_alone = all(
            isinstance(transform, PersonTransform | DrawMirroring) for transform in transforms.values()
        )
        self.set_labels(labels)

    def set_labels(self, labels: Sequence[int]) -> None:
        """Replace the labels; workers that are started later use them.

        Args:
            labels: class label per image; images with a negative one replace no other image.

        Raises:
            ArgumentError: there is not one label for each image.
        """
        if len(labels) != len(self.images):
            raise ArgumentError(f"{len(labels)} labels for {len(self.images)} training images")
        self.labels = list(labels)
        self._images_of: dict[int, list[int]] = defaultdict(list)
        for index, label in enumerate(self.labels):
            self._images_of[label].append(index)
        self._labelled = [index for index, label in enumerate(self.labels) if label >= 0]

    def __getitems__(self, indices: Sequence[int | Draw]) -> list[Item]:
        """Return the items of a batch with `Pixels`; torch's loaders call this instead of `__getitem__`."""
        draws = [index if isinstance(index, Draw) else Draw(index, index) for index in indices]
        with preserved_generators(torch_alone=self._torch_alone):
            return [self._drawn(draw) for draw in draws]

    def _drawn(self, draw: Draw) -> Item:
        seed_generators(self._seed, draw.number, torch_alone=self._torch_alone)
        item = self._first_readable(self._candidates(draw.image), draw)
        return {**item, "position": draw.number % self._batch_size, "batch_size": self._batch_size}

    def _view(self, name: str, pixels: np.ndarray, draw: Draw | None) -> Pixels | Tensor:
        if draw is not None and name != "images":
            seed_generators(self._seed, draw.number, name, torch_alone=self._torch_alone)
        return super()._view(name, pixels, draw)

    def _candidates(self, index: int) -> Iterator[int]:
        yield index
        same = [other for other in self._images_of[self.labels[index]] if other != index]
        yield from (same[position] for position in torch.randperm(len(same)).tolist())
        for _ in range(len(self._labelled)):
            yield self._labelled[int(torch.randint(len(self._labelled), ()))]

    def _nothing(self, skipped: list[tuple[str, str]]) -> Item:
        raise ImageReadError(f"no image to train on can be read; {describe_skipped(dict(skipped))}")


def seed_generators(run: int, number: int, view: str = "images", *, torch_alone: bool = False) -> None:
    """Seed torch's CPU generator, and those of Python and NumPy, for one view of one draw.

    Args:
        run: seed of the run.
        number: number of the draw in the run.
        view: name of the view.
        torch_alone: leave the generators of Python and NumPy as they are.
    """
    # One 64-bit number of all: similar arguments give unrelated seeds, in a tenth of the time of NumPy's SeedSequence.
    stream = b"%d %d" % (run, number) + (b"" if view == "images" else b" " + view.encode())
    seed = int.from_bytes(hashlib.blake2b(stream, digest_size=8).digest(), "little")
    # torch.manual_seed would also queue a call for every GPU, which workers never initialise.
    torch.default_generator.manual_seed(seed)
    if not torch_alone:
        random.seed(seed)
        np.random.seed(seed % 2**32)


@contextmanager
def preserved_generators(*, torch_alone: bool = False) -> Iterator[None]:
    """Restore the generators afterwards. Used once per batch, as it takes far longer than seeding.

    Args:
        torch_alone: leave the generators of Python and NumPy out.
    """
    states = None if torch_alone else (random.getstate(), np.random.get_state())
    torch_state = torch.default_generator.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(torch_state)
        if states:
            random.setstate(states[0])
            np.random.set_state(states[1])


def with_floats(
    batch: Mapping[str, Any], transforms: Mapping[str, Transform], device: torch.device | str
) -> dict[str, Any]:
    """Return a batch whose `Pixels` are float32 [B, 3, H, W] in 0..255.

    Args:
        batch: a collated batch.
        transforms: the transforms of its views.
        device: device of the images.
    """
    made = {name: cast(PersonTransform, transforms[name]) for name, value in batch.items() if isinstance(value, Pixels)}
    return {**batch, **{name: batch[name].to_float(made[name].erase_value, device) for name in made}}


def collate(items: Sequence[Item]) -> dict[str, Any]:
    """Items -> batch; "skipped" is one list of (path, reason), and the only key if no item has images."""
    skipped = [pair for item in items for pair in item.pop("skipped", ())]
    readable = [item for item in items if item]
    batch = default_collate(readable) if readable else {}
    return batch | {"skipped": skipped} if skipped else batch
