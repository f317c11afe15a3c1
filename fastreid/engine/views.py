"""Whether the images are of views that the model has a place for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from fastreid.config import ConfigError
from fastreid.methods.sd_reid.view_memory import ViewMemoryBank


def check_views(model: nn.Module, datasets: Sequence[Any]) -> None:
    """Compare the training images with the views that a model remembers; one that knows no views takes any.

    Raises:
        ConfigError: images are of a view that the model has no place for.
    """
    known = [module.num_views for module in model.modules() if isinstance(module, ViewMemoryBank)]
    if not known:
        return
    views = {int(image.view) for dataset in datasets for image in dataset.train}
    if strange := {view for view in views if not 0 <= view < min(known)}:
        raise ConfigError(
            f"the training images are of views {sorted(views)}, but MODEL.SDMODEL.VIEW_NUM is {min(known)}: set it to "
            f"{max(strange) + 1}"
        )
