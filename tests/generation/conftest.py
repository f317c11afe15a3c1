"""The tiny Stable Diffusion and the three people of the generator's tests."""

from tests.methods.diffusion_reid.conftest import assets, make_cfg, place  # noqa: F401
