"""The base class of training samplers: endless, resumable, and independent of the number of processes."""

from collections.abc import Iterator
from itertools import islice

from torch.utils.data import Sampler


class EndlessSampler(Sampler[int]):
    """An endless stream of image indices, batch after batch; several processes share each batch (`TrainingDraws`).

    Args:
        batch_size: images per step, of all processes together.
        group_size: consecutive images that one process should get, those of one person.
    """

    def __init__(self, batch_size: int, group_size: int = 1) -> None:
        self.batch_size, self.group_size, self._skipped = batch_size, group_size, 0

    def stream(self) -> Iterator[int]:
        """The indices from the beginning of the order."""
        raise NotImplementedError(f"{type(self).__name__} must define stream")

    def fast_forward(self, num_batches: int) -> None:
        """Let the next iteration start after `num_batches` batches, as a resumed run needs."""
        self._skipped = num_batches * self.batch_size

    def __iter__(self) -> Iterator[int]:
        return islice(self.stream(), self._skipped, None)
