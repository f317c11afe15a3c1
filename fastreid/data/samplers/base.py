"""What every training order shares: it never ends, it can start where an earlier run stopped, it knows no processes."""

from collections.abc import Iterator
from itertools import islice

from torch.utils.data import Sampler


class EndlessSampler(Sampler[int]):
    """An endless stream of image indices, batch after batch; several processes share each batch (`ShardedSampler`).

    Args:
        batch_size: images per step, of all processes together.
        group_size: images in a row that one process should get: a person's.
    """

    def __init__(self, batch_size: int, group_size: int = 1) -> None:
        self.batch_size, self.group_size, self._skipped = batch_size, group_size, 0

    def stream(self) -> Iterator[int]:
        """The indices from the very beginning."""
        raise NotImplementedError(f"{type(self).__name__} must define stream")

    def fast_forward(self, num_batches: int) -> None:
        """Let the next iteration start after that many batches, as a resumed run needs."""
        self._skipped = num_batches * self.batch_size

    def __iter__(self) -> Iterator[int]:
        return islice(self.stream(), self._skipped, None)
