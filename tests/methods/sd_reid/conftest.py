"""Assets and tiny models of stage 2."""

from tests.modeling.conftest import assets, make_stage2

__all__ = ["assets", "make_stage2"]
