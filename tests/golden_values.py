"""Numbers that the released programs computed (tests/golden)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class Golden:
    """The arrays of one file.

    Args:
        name: as "pisl".
    """

    def __init__(self, name: str) -> None:
        self.arrays = np.load(Path(__file__).parent / f"golden/{name}.npz")

    def __call__(self, name: str) -> Tensor:
        """An array as a tensor, float32 if it has fractions."""
        value = torch.from_numpy(np.asarray(self.arrays[name]))
        return value.float() if value.is_floating_point() else value

    def family(self, prefix: str) -> dict[str, Tensor]:
        """The arrays whose names begin with a prefix, by the rest of the name."""
        return {name.removeprefix(prefix): self(name) for name in self.arrays.files if name.startswith(prefix)}

    def check(self, got: Tensor, name: str, tolerance: float = 1e-5) -> None:
        """Compare with an array, relative to its largest entry, or absolutely if that is below 1."""
        want = self(name)
        worst = tolerance * max(1.0, float(want.abs().max()))
        torch.testing.assert_close(got.detach().float(), want.reshape(got.shape), rtol=0, atol=worst)
