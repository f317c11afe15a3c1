"""What every training order shares: it never ends, and it can start where an earlier run stopped."""

from collections.abc import Iterator
from itertools import islice

from torch.utils.data import Sampler


class EndlessSampler(Sampler[int]):
    """An endless stream of image indices for one process.

    Args:
        batch_size: images per process and step.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self._skipped = batch_size, 0

    def stream(self) -> Iterator[int]:
        """The indices from the very beginning."""
        raise NotImplementedError(f"{type(self).__name__} must define stream")

    def fast_forward(self, num_batches: int) -> None:
        """Let the next iteration start after that many batches, as a resumed run needs."""
        self._skipped = num_batches * self.batch_size

    def __iter__(self) -> Iterator[int]:
        return islice(self.stream(), self._skipped, None)
