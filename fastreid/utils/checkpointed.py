"""The interface of models to checkpoints: what is saved, what must be loaded, and names of other programs."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from fastreid.utils.state_dicts import State

logger = logging.getLogger(__name__)


@runtime_checkable
class Renamed(Protocol):
    """A module whose parameters had other names in earlier versions of this library."""

    @property
    def changes(self) -> str:
        """What else has changed since then, so that results differ; "" if nothing has."""

    def current_name(self, name: str) -> str:
        """Return the current name of a tensor of this module; a name that is not an earlier one is not changed."""


def with_current_names(model: nn.Module, state: State) -> State:
    """Replace the names that parameters of `Renamed` submodules had in earlier versions of this library.

    Args:
        model: the model.
        state: names with tensors, of a checkpoint of the whole model.
    """
    for path, module in model.named_modules():
        if not isinstance(module, Renamed):
            continue
        prefix = f"{path}." if path else ""
        current = {
            f"{prefix}{module.current_name(name.removeprefix(prefix))}" if name.startswith(prefix) else name: value
            for name, value in state.items()
        }
        if current.keys() != state.keys():
            logger.info("%s has the names of an earlier version of this library; they are replaced", path or "it")
            if module.changes:
                logger.warning("%s was trained by an earlier version of this library: %s", path, module.changes)
        state = current
    return state


class CheckpointedModule(nn.Module):
    """Base class of models that are saved and loaded; every member has a default."""

    required_prefixes: tuple[str, ...] = ()
    """Beginnings of the names that must be filled by the checkpoint from which a training starts."""

    backbone_prefixes: tuple[str, ...] = ()
    """Beginnings of the names of the backbone. Default: the backbone is everything below a part called `backbone`."""

    @property
    def evaluates_classes(self) -> bool:
        """Whether the output in eval mode is of the classifier, so that a checkpoint to be evaluated must have it."""
        return False

    # Names that come from frozen assets; see `register_frozen_asset`.
    _frozen_assets: frozenset[str] = frozenset()
    # Those of them that only training uses.
    _training_assets: frozenset[str] = frozenset()

    def register_frozen_asset(self, part: str, *, only_in_training: bool = False) -> None:
        """Declare that a part comes from files of its own, so that its frozen weights stay out of checkpoints.

        Parameters of the part that require a gradient now are saved. Those that are frozen later on are saved too, as
        they may differ from the files. Buffers are left out only if no parameter of the part requires a gradient.

        Args:
            part: name of a submodule, with dots.
            only_in_training: whether evaluation does not use the part.

        Raises:
            AttributeError: the module has no such part.
        """
        module = self.get_submodule(part)
        parameters = dict(module.named_parameters(remove_duplicate=False))
        names = {name for name, parameter in parameters.items() if not parameter.requires_grad}
        if names == parameters.keys():
            names |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
        names = {f"{part}.{name}" for name in names}
        self._frozen_assets |= names
        self._training_assets |= names if only_in_training else set()

    def frozen_assets(self, *, only_in_training: bool = False) -> frozenset[str]:
        """Return the names of parameters and buffers that are frozen assets.

        Args:
            only_in_training: leave out those that evaluation uses.
        """
        return self._training_assets if only_in_training else self._frozen_assets

    def adapt_checkpoint(self, state: State) -> State:
        """Translate the names of a checkpoint of another program. Default: return it unchanged."""
        return state

    def checkpoint_state_dict(self) -> State:
        """Return what a checkpoint holds of the model. Default: everything except frozen assets."""
        return {name: value for name, value in self.state_dict().items() if name not in self._frozen_assets}

    def load_checkpoint_state_dict(self, state: Mapping[str, Tensor], strict: bool = True) -> None:
        """Load what `checkpoint_state_dict` returned.

        Args:
            state: names with tensors.
            strict: whether missing and unexpected names are errors.

        Raises:
            RuntimeError: names are missing or unexpected, or a tensor has another shape.
        """
        if not self._frozen_assets:
            self.load_state_dict(state, strict=strict)
            return
        own = self.state_dict()
        missing = own.keys() - self._frozen_assets - state.keys()
        if strict and missing:
            raise RuntimeError(f"the checkpoint lacks {', '.join(sorted(missing)[:6])}")
        if strict and (strange := state.keys() - own.keys()):
            raise RuntimeError(f"Unexpected key(s), which the model lacks: {', '.join(sorted(strange)[:6])}")
        self.load_state_dict(state, strict=False)


class PlainModule(CheckpointedModule):
    """Provides the defaults of `CheckpointedModule` for a module that does not derive from it.

    Args:
        module: the module; it is not registered as a child, so that its names stay the same.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._wrapped = (module,)
        declared = {name for name in dir(type(self)) if not name.startswith("_")} - set(dir(nn.Module))
        if ignored := sorted(declared.intersection(dir(module))):
            _warn_of_ignored(type(module).__name__, ", ".join(ignored))

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the state dict of the wrapped module."""
        return self._wrapped[0].state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load a state dict into the wrapped module."""
        return self._wrapped[0].load_state_dict(*args, **kwargs)


@functools.cache
def _warn_of_ignored(name: str, members: str) -> None:
    """Log members that would be used if the class derived from the interface; once per class."""
    logger.warning(
        "%s is not derived from fastreid.modeling.ReidModel, so these members are not used: %s", name, members
    )


def checkpointed(module: nn.Module) -> CheckpointedModule:
    """Return the module itself if it is a `CheckpointedModule`, otherwise an adapter with the defaults."""
    return module if isinstance(module, CheckpointedModule) else PlainModule(module)
