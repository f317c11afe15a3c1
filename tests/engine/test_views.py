"""Views are asked of models that know them, and of no other."""

from types import SimpleNamespace

import pytest
from torch import nn

from fastreid.config import ConfigError
from fastreid.engine.views import check_views
from fastreid.methods.sd_reid.view_memory import ViewMemoryBank
from fastreid.structures import PersonImage
from tests.engine.toys import ToyTrainer, toy_cfg

THREE = [SimpleNamespace(train=[PersonImage(f"{view}.jpg", 0, 0, view) for view in range(3)])]


def test_a_model_with_a_memory_of_views_must_have_them_all():
    with pytest.raises(ConfigError, match=r"of views \[0, 1, 2\], but MODEL.SDMODEL.VIEW_NUM is 2: set it to 3"):
        check_views(nn.ModuleDict({"memory": ViewMemoryBank(2, 4, 0.8)}), THREE)
    check_views(nn.ModuleDict({"memory": ViewMemoryBank(3, 4, 0.8)}), THREE)


def test_other_models_take_any_view(tmp_path):
    class ThreeViews(ToyTrainer):
        @classmethod
        def build_train_loader(cls, cfg):
            loader = super().build_train_loader(cfg)
            loader.sources = THREE
            return loader

    ThreeViews(toy_cfg(tmp_path))  # VIEW_NUM is 2
