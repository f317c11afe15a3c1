"""A linear prediction of the latent of a person in a view; diffusion then models the residual."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LinearMean(nn.Module):
    """Ridge regression from an image's identity conditions to the mean latent of its person in each view.

    Diffusion then works on the residual, as in CARD (Han et al., NeurIPS 2022, section 3.1): with cross-attention to a
    few tokens, a map that has a closed form is learnt slowly. The prediction is zero before `fit`, and for views in
    which no person has two images.

    Args:
        num_tokens: L - 1.
        dim: D.
        num_views: V.
    """

    # Added to the variance of every input, as a share of the mean variance. Results hardly change from 0.03 to 3
    # (docs/results.md).
    RIDGE = 0.1

    weight: Tensor
    bias: Tensor

    def __init__(self, num_tokens: int, dim: int, num_views: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_views, num_tokens * dim, dim))
        self.register_buffer("bias", torch.zeros(num_views, dim))

    def forward(self, id_conditions: Tensor, views: Tensor) -> Tensor:
        """Return mean latents [B, D] in float32, of conditions [B, L-1, D] and requested views [B]."""
        with torch.autocast(id_conditions.device.type, enabled=False):
            inputs = id_conditions.float().flatten(1)
            every_view = torch.einsum("bf,vfd->bvd", inputs, self.weight) + self.bias
        return every_view[torch.arange(views.shape[0], device=views.device), views]

    @torch.no_grad()
    def fit(self, id_conditions: Tensor, latents: Tensor, people: Tensor, views: Tensor) -> None:
        """Regress, in float64, on the mean of the *other* images of the person in a view.

        Args:
            id_conditions: [N, L-1, D].
            latents: [N, D].
            people: [N].
            views: [N].
        """
        inputs, latents = id_conditions.flatten(1).double(), latents.double()
        _, person = people.unique(return_inverse=True)
        for view in range(len(self.weight)):
            shows = (views == view).double()
            members = F.one_hot(person).double() * shows[:, None]  # [N, people]
            others = members.sum(dim=0)[person] - shows
            sums = (members.T @ latents)[person] - shows[:, None] * latents
            known = others > 0
            if known.any():
                self._solve(view, inputs[known], sums[known] / others[known, None])

    def _solve(self, view: int, inputs: Tensor, targets: Tensor) -> None:
        inputs_mean, targets_mean = inputs.mean(dim=0), targets.mean(dim=0)
        inputs = inputs - inputs_mean
        products = inputs.T @ inputs / len(inputs)
        products.diagonal().add_(self.RIDGE * products.diagonal().mean().clamp(min=1e-12))
        weight = torch.linalg.solve(products, inputs.T @ (targets - targets_mean) / len(inputs))
        self.weight[view].copy_(weight)
        self.bias[view].copy_(targets_mean - inputs_mean @ weight)
