"""Stems that turn an image into a grid of tokens, with the `embed_layer` interface of timm."""

import math
from collections.abc import Callable

import torch.nn as nn
from torch import Tensor

from fastreid.utils.errors import ArgumentError


class _Stem(nn.Module):
    """Images [B, 3, H, W] of a fixed size -> tokens [B, N, D] in row order."""

    def __init__(self, img_size: tuple[int, int], grid_size: tuple[int, int], proj: nn.Module) -> None:
        super().__init__()
        self.img_size, self.grid_size, self.proj = tuple(img_size), grid_size, proj
        self.num_patches = math.prod(grid_size)

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens of images.

        Raises:
            ArgumentError: the images have another size.
        """
        if tuple(images.shape[-2:]) != self.img_size:
            raise ArgumentError(
                f"the backbone was built for {self.img_size[0]}x{self.img_size[1]} images, "
                f"got {images.shape[-2]}x{images.shape[-1]}; INPUT.SIZE_TRAIN and SIZE_TEST must agree"
            )
        return self.proj(images).flatten(2).transpose(1, 2)


class PatchStem(_Stem):
    """One convolution of the patch size; a smaller stride makes patches overlap (TransReID, section 3.1).

    Args:
        img_size: (height, width).
        patch_size: side of a patch.
        in_chans: channels of the images.
        embed_dim: width of the tokens.
        stride: (rows, columns) from patch to patch.
        bias: whether the convolution has a bias.
    """

    def __init__(
        self,
        img_size: tuple[int, int],
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        *,
        stride: tuple[int, int],
        bias: bool = True,
        **_timm_options: object,
    ) -> None:
        rows, columns = ((size - patch_size) // step + 1 for size, step in zip(img_size, stride, strict=True))
        proj = nn.Conv2d(in_chans, embed_dim, patch_size, (stride[0], stride[1]), bias=bias)
        super().__init__(img_size, (rows, columns), proj)


class ConvStem(_Stem):
    """3x3 stride-2 convolutions, then a 1x1 (Xiao et al., "Early Convolutions Help Transformers See Better").

    A small ViT that is trained from scratch learns much faster with it than with one 16x16 convolution.

    Args:
        img_size: (height, width).
        patch_size: not used.
        in_chans: channels of the images.
        embed_dim: width of the tokens.
        stride: pixels from token to token; square, a power of two.

    Raises:
        ArgumentError: another stride.
    """

    def __init__(
        self,
        img_size: tuple[int, int],
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        *,
        stride: tuple[int, int],
        **_timm_options: object,
    ) -> None:
        step = stride[0]
        if stride[0] != stride[1] or step < 2 or step & (step - 1):
            raise ArgumentError(f'STEM "conv" needs a square STRIDE_SIZE of 2, 4, 8, 16 …, got {tuple(stride)}')
        depth = step.bit_length() - 1
        widths = [in_chans, *(max(8, embed_dim >> (depth - 1 - i)) for i in range(depth))]
        layers: list[nn.Module] = []
        for c_in, c_out in zip(widths[:-1], widths[1:], strict=True):
            layers += [
                nn.Conv2d(c_in, c_out, 3, 2, 1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.ReLU(inplace=True),
            ]
        grid = (math.ceil(img_size[0] / step), math.ceil(img_size[1] / step))
        super().__init__(img_size, grid, nn.Sequential(*layers, nn.Conv2d(widths[-1], embed_dim, 1)))


PATCH_STEMS: dict[str, Callable[..., _Stem]] = {"patch": PatchStem, "conv": ConvStem}
