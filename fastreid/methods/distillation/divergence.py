"""Divergence of the class probabilities of a student from those of its teacher."""

import torch.nn.functional as F
from torch import Tensor


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the divergence KL(teacher || student) of softened probabilities, times the squared temperature.

    Args:
        student: logits [B, C].
        teacher: logits [B, C].
        temperature: logits are divided by it (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015).

    Returns:
        The mean over images, a float32 scalar.
    """
    log_student = (student.float() / temperature).log_softmax(dim=1)
    log_teacher = (teacher.float() / temperature).log_softmax(dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def symmetric_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the mean of both divergences; fast-reid has this formula under the name Jensen-Shannon.

    Args:
        student: logits [B, C].
        teacher: logits [B, C].
        temperature: as in `kl_divergence`.
    """
    there = kl_divergence(student, teacher, temperature)
    return (there + kl_divergence(teacher, student, temperature)) / 2
