"""The interface of denoisers: noisy latents, time and a `Condition` to a prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from fastreid.modeling.diffusion.latent import Latent, VectorLatent
from fastreid.structures import Condition


class Denoiser(nn.Module, ABC):
    """Base class of denoisers."""

    @property
    @abstractmethod
    def context_dim(self) -> int:
        """Width of the tokens."""

    @abstractmethod
    def latent_of(self, feature_dim: int) -> Latent:
        """Return the shape in which features of `feature_dim` numbers are diffused.

        Raises:
            OptionError: such features cannot have that shape.
        """

    @abstractmethod
    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """Predict from noisy latents.

        Args:
            noisy: latents [B, …].
            timesteps: [B], or a scalar.
            condition: condition of the B samples.

        Returns:
            Prediction [B, …].
        """


class VectorDenoiser(Denoiser):
    """Base class of denoisers of vectors [B, D]; the only control map of a condition is an embedding of the view.

    Args:
        dim: D, width of the vectors and the tokens.
        control_dim: width of the view embedding.
    """

    def __init__(self, *, dim: int, control_dim: int) -> None:
        super().__init__()
        self.dim, self.control_dim = dim, control_dim

    @property
    def context_dim(self) -> int:
        """Width of the tokens."""
        return self.dim

    def latent_of(self, feature_dim: int) -> Latent:
        """Return the shape [D] of the vectors."""
        return VectorLatent(feature_dim)

    def view_of(self, condition: Condition, noisy: Tensor) -> Tensor:
        """Return the view embedding [B, E] of a condition; zeros if it has no control.

        Args:
            condition: the condition.
            noisy: [B, D], for the number of rows, type and device.
        """
        if condition.control is None:
            return noisy.new_zeros(noisy.shape[0], self.control_dim)
        (view,) = condition.control.down
        return view
