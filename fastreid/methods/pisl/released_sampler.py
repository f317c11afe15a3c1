"""The sampler of PISL's release: its steps never form theta_0, and its renewal mixes the images of a batch (REL)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastreid.modeling.diffusion import Schedule
from fastreid.modeling.diffusion.sampling import Predict
from fastreid.structures import Condition

_SNAPSHOTS = 10


@dataclass(frozen=True)
class ReleasedSampler:
    """Every step computes sqrt(abar') theta + sqrt(1 - abar' - sigma^2) eps + sigma z, abar' being that of time t - 1.

    Args:
        schedule: the diffusion.
        num_steps: steps, one for each time from `num_steps` - 1 down to 0.
        renewal: after each step, replace rows whose mean predicted noise is not above 0 by fresh noise. The rows that
            are kept move to the front of the batch, so that a row no longer belongs to its image.
        ensemble: return the mean of the snapshots at times that are multiples of 100, instead of the last theta.
        eta: noise of the steps, from 0 (none) to 1 (as released).
    """

    schedule: Schedule
    num_steps: int
    renewal: bool
    ensemble: bool
    eta: float = 1.0

    @property
    def noise_steps(self) -> int:
        """Noise tensors that a run consumes: the start, and for each step its noise and that of the renewal."""
        return 1 + 2 * self.num_steps

    def sample(self, predict: Predict, condition: Condition, null: None, noise: Tensor) -> Tensor:
        """Generate a theta for each of the R rows of a condition.

        Args:
            predict: the denoiser; its prediction is read as noise.
            condition: condition of the R rows.
            null: not used; it is here as in `Sampler`.
            noise: [noise_steps, R, 6 P]. A renewal takes its rows from the first ones of its tensor.

        Returns:
            Thetas [R, 6 P].
        """
        theta, snapshots = noise[0], []
        kept = self.schedule.kept_signal(torch.arange(self.num_steps), noise[0, 0, :1])
        period = max(1, self.schedule.num_timesteps // _SNAPSHOTS)
        for step, time in enumerate(range(self.num_steps - 1, -1, -1)):
            predicted = predict(theta, torch.tensor(time, device=noise.device), condition).float()
            now, after = kept[time], kept[time - 1] if time else kept.new_tensor(1.0)
            sigma = self.eta * ((1 - now / after) * (1 - after) / (1 - now)).sqrt()
            theta = after.sqrt() * theta + (1 - after - sigma**2).clamp(min=0).sqrt() * predicted
            if time:
                theta = theta + sigma * noise[1 + 2 * step]
                if self.renewal:
                    theta = _renewed(theta, predicted, noise[2 + 2 * step])
            if time % period == 0:
                snapshots.append(theta)
        return torch.stack(snapshots).mean(dim=0) if self.ensemble else theta


def _renewed(theta: Tensor, predicted: Tensor, fresh: Tensor) -> Tensor:
    """Return the rows whose mean predicted noise is above 0, followed by fresh ones."""
    kept = theta[predicted.mean(dim=1) > 0]
    return torch.cat([kept, fresh[: len(theta) - len(kept)]])
