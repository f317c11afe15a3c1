"""Images of people as a torch dataset."""

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fastreid.data.images import ImageReadError, read_image
from fastreid.structures import PersonImage

__all__ = ["ImageReadError", "PersonDataset", "read_image"]


class PersonDataset(Dataset):
    """Decodes and transforms; item = images [3, H, W], targets, camids, viewids, img_paths.

    Args:
        images: the images, in order.
        transform: PIL image -> [3, H, W].
        labels: what `targets` holds per image; the person ids if left out.

    Raises:
        ImageReadError: when an item is asked for whose file cannot be decoded.
    """

    def __init__(
        self,
        images: Sequence[PersonImage],
        transform: Callable[[Image.Image], Tensor],
        labels: Sequence[int] | None = None,
    ) -> None:
        self.images, self.transform = images, transform
        self.labels = [image.person for image in images] if labels is None else labels
        self.num_classes = len(set(self.labels))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.images[index]
        return {
            "images": self.transform(read_image(image.path)),
            "targets": self.labels[index],
            "camids": image.camera,
            "viewids": int(image.view),
            "img_paths": image.path,
        }
