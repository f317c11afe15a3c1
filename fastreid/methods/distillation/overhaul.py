"""Overhaul distillation: feature maps before the last activation of each stage (Heo et al., ICCV 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from fastreid.config import ConfigError
from fastreid.layers import get_norm
from fastreid.modeling.backbones import ResNet

_STAGES = ("layer1", "layer2", "layer3", "layer4")
# Share of a channel below zero under which its margin is -3 deviations, as the formula is not stable there.
_RARE = 1e-3
# fast-reid divides the sum over a map by it.
_DIVISOR = 10_000


class OverhaulLoss(nn.Module):
    """Distances of the maps of a student to those of one teacher, over the four stages of ResNets.

    Connectors, 1x1 convolutions with a norm, map the channels of the student to those of the teacher. Negative values
    of the teacher are raised to a margin of their channel (margin-ReLU). A value counts only if the student's is above
    the teacher's, or if the teacher's is positive (partial L2). Distances of a stage have twice the weight of those of
    the stage before it.

    Args:
        student: the network that is trained.
        teacher: the network with its trained weights.
        norm: name of the norms of the connectors, as of `get_norm`.
        num_splits: parts of a batch, of GhostBN.
    """

    def __init__(self, student: ResNet, teacher: ResNet, *, norm: str = "BN", num_splits: int = 1) -> None:
        super().__init__()
        connectors = []
        for number, (own, other) in enumerate(zip(_last_norms(student), _last_norms(teacher), strict=True)):
            width = len(other.bias)
            connect = nn.Conv2d(len(own.bias), width, 1, bias=False)
            nn.init.kaiming_normal_(connect.weight, mode="fan_out")
            connectors.append(nn.Sequential(connect, get_norm(norm, width, num_splits=num_splits)))
            # Computed from the teacher, so they are not in checkpoints.
            self.register_buffer(f"margin_{number}", margins(other.weight, other.bias), persistent=False)
        self.connectors = nn.ModuleList(connectors)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return the loss, the mean over images, a float32 scalar.

        Args:
            student: maps [B, C, h, w] of each stage, as `stage_maps` returns them.
            teacher: those of the teacher; channels may differ.

        Raises:
            ConfigError: maps of a stage differ in height or width.
        """
        total = torch.zeros((), device=student[0].device)
        for number, (connect, own, other) in enumerate(zip(self.connectors, student, teacher, strict=True)):
            if own.shape[-2:] != other.shape[-2:]:
                sizes = " and ".join(f"{maps.shape[-2]} x {maps.shape[-1]}" for maps in (own, other))
                raise ConfigError(
                    f"the maps of stage {number + 1} of student and teacher are {sizes}: both need the same "
                    "MODEL.BACKBONE.LAST_STRIDE"
                )
            weight = 2.0 ** (number + 1 - len(self.connectors))
            total = total + weight * partial_distance(connect(own), other, self.get_buffer(f"margin_{number}"))
        return total / (len(student[0]) * _DIVISOR)


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Return the sum of squared distances of maps [B, C, h, w], a float32 scalar.

    Values that are to be negative, and are lower than the teacher's, do not count.

    Args:
        student: maps of the student.
        teacher: maps of the teacher.
        margin: lower bound [C] of the teacher's maps.
    """
    own, other = student.float(), torch.maximum(teacher.float(), margin[:, None, None])
    return ((own - other).square() * ((own > other) | (other > 0))).sum()


def margins(weight: Tensor, bias: Tensor) -> Tensor:
    """Return the expectation of the negative values of each channel of a batch norm, [C].

    A channel has a normal distribution with the bias as its mean and the absolute weight as its deviation.

    Args:
        weight: the weights [C].
        bias: the biases [C].
    """
    deviation, mean = weight.detach().abs().clamp(min=1e-12), bias.detach()
    below = torch.special.ndtr(-mean / deviation)
    density = (-(mean / deviation).square() / 2).exp() / math.sqrt(2 * math.pi)
    expected = mean - deviation * density / below.clamp(min=_RARE)
    return torch.where(below > _RARE, expected, -3 * deviation)


def stage_maps(network: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the maps of a ResNet, and those of its four stages before their last activation.

    Args:
        network: the ResNet.
        images: normalised images [B, 3, H, W].
    """
    found: list[Tensor] = []

    def keep(activation: nn.Module, inputs: tuple[Tensor]) -> None:
        found.append(inputs[0])

    hooks = [_last_activation(block).register_forward_pre_hook(keep) for block in _last_blocks(network)]
    try:
        return network(images), found
    finally:
        for hook in hooks:
            hook.remove()


def keep_inputs(network: ResNet) -> None:
    """Let the last activation of each stage make a new tensor, so that the maps before it stay as they are.

    Args:
        network: the network that `stage_maps` is used with.
    """
    for block in _last_blocks(network):
        _last_activation(block).inplace = False  # type: ignore[assignment]


def require_resnet(network: nn.Module, whose: str) -> ResNet:
    """Return a network as the ResNet that it is.

    Args:
        network: the network.
        whose: whose network it is, for the message.

    Raises:
        ConfigError: it is another network.
    """
    if not isinstance(network, ResNet):
        raise ConfigError(
            f"DistillerOverhaul compares the stages of ResNets and ResNeXts, but the backbone of the {whose} is a "
            f"{type(network).__name__}: take build_resnet_backbone or build_resnext_backbone, or "
            "MODEL.META_ARCHITECTURE Distiller, which compares logits only"
        )
    return network


def _last_blocks(network: nn.Module) -> list[nn.Module]:
    return [cast(nn.Sequential, network.get_submodule(stage))[-1] for stage in _STAGES]


def _last_activation(block: nn.Module) -> nn.Module:
    return block.get_submodule("act2" if isinstance(block, BasicBlock) else "act3")


def _last_norms(network: ResNet) -> list[nn.BatchNorm2d]:
    """The norm before the last activation of each stage; other norms have weight and bias as well."""
    names = ("bn2" if isinstance(block, BasicBlock) else "bn3" for block in _last_blocks(network))
    blocks = _last_blocks(network)
    return [cast(nn.BatchNorm2d, block.get_submodule(name)) for block, name in zip(blocks, names, strict=True)]
