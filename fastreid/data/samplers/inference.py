"""The order of evaluation: every image once, divided among the processes."""

from collections.abc import Iterator

from torch.utils.data import Sampler

from fastreid.utils import comm


class InferenceSampler(Sampler[int]):
    """The contiguous part of the indices 0 … `size` - 1 of this process; all parts but the last ones are equal.

    Args:
        size: number of images of all processes, at least 1.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"there must be an image to look at, got size={size}")
        share = -(-size // comm.get_world_size())
        first = share * comm.get_rank()
        self._indices = range(first, min(first + share, size))

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)
