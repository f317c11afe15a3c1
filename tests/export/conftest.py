"""Assets of stage 2."""

from tests.modeling.conftest import assets

__all__ = ["assets"]
