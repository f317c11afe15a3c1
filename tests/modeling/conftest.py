"""Assets and models that several tests share."""

import pytest
import torch

from fastreid.modeling import build_model
from tests.modeling import toys


@pytest.fixture(scope="session")
def assets(tmp_path_factory):
    return toys.write_assets(tmp_path_factory.mktemp("assets"))


@pytest.fixture
def make_stage2(assets):
    """make_stage2(KEY, VALUE, …) -> a tiny stage-2 model; the same weights every time."""

    def make(*options):
        torch.manual_seed(0)
        model = build_model(toys.stage2_cfg(assets, *options), num_classes=4)
        toys.fill_memory(model)
        return model

    return make
