"""The batch that a loader yields and a model receives."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor


class Batch(TypedDict, total=False):
    """A batch of B images, a plain `dict` at run time.

    `forward` may rely on `images`; a user-defined data set need not provide the other keys. Further named views of the
    same samples (`image_transforms` of `build_reid_train_loader`, for example "diffusion_images") are tensors like
    `images` under keys of their own.

    Attributes:
        images: float32 [B, 3, H, W] in 0..255, on the device of the model.
        targets: int64 [B], class labels in training, person ids in evaluation; in training on the device of the model,
            as the next two.
        camids: int64 [B], camera ids.
        viewids: int64 [B], view ids (`View`).
        attributes: float32 [B, A] of 0 and 1, the attributes of the people; only if those of all images of the data set
            are known. In training on the device of the model.
        img_paths: paths of the B image files.
        indices: int64 [B], positions of the images in the loader's data set.
        position: int64 [B], positions in the batch of all processes (training only).
        batch_size: int64 [B], size of the batch of all processes (training only).
    """

    images: Tensor
    targets: Tensor
    camids: Tensor
    viewids: Tensor
    attributes: Tensor
    img_paths: list[str]
    indices: Tensor
    position: Tensor
    batch_size: Tensor
