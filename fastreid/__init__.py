"""fastreid: person re-identification with diffusion models behind one interface."""

from typing import TYPE_CHECKING, Any

from fastreid.utils.threads import bound_spin

if TYPE_CHECKING:
    from fastreid.encoder import Predictor

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__"]

bound_spin()


def __getattr__(name: str) -> Any:
    """Import the classes of this module when they are first used: torch is not imported with it."""
    if name == "Predictor":
        from fastreid.encoder import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
