"""Images of people as a torch dataset."""

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fastreid.data.images import ImageReadError, read_image, read_pixels
from fastreid.data.transforms import PersonTransform
from fastreid.structures import PersonImage

__all__ = ["ImageReadError", "PersonDataset", "WrappedDataset", "read_image"]


class PersonDataset(Dataset):
    """Decodes and transforms; item = images [3, H, W], targets, camids, viewids, img_paths.

    Args:
        images: the images, in order.
        transform: PIL image -> [3, H, W].
        labels: what `targets` holds per image; the person ids if left out.
        as_bytes: `images` are `Pixels`, which `PersonLoader` finishes; the transform is then a `PersonTransform`.

    Raises:
        ImageReadError: when an item is asked for whose file cannot be decoded.
    """

    def __init__(
        self,
        images: Sequence[PersonImage],
        transform: Callable[[Image.Image], Tensor],
        labels: Sequence[int] | None = None,
        *,
        as_bytes: bool = False,
    ) -> None:
        self.images, self.transform = images, transform
        self._transform = transform.pixels if as_bytes else transform
        # Somebody's own transform may know Pillow's images only.
        self._read = read_pixels if isinstance(transform, PersonTransform) else read_image
        self.labels = [image.person for image in images] if labels is None else labels
        self.num_classes = len(set(self.labels))

    @property
    def draws_by_torch_alone(self) -> bool:
        """Whether items ask no other generator; a subclass, or a transform of somebody's, may."""
        return type(self) is PersonDataset and isinstance(self.transform, PersonTransform)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.images[index]
        return {
            "images": self._transform(self._read(image.path)),
            "targets": self.labels[index],
            "camids": image.camera,
            "viewids": int(image.view),
            "img_paths": image.path,
        }


class WrappedDataset(Dataset):
    """A dataset around another one, whose attributes and length are its own, too; a subclass gives the items."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # before there is a dataset to ask: while a worker unpickles this
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __len__(self) -> int:
        return len(self._dataset)
