"""The interface of models: defaults, and what the library's own models declare."""

import subprocess
import sys

import pytest
from torch import nn

from fastreid.config import ConfigError, get_cfg
from fastreid.methods.sd_reid.stage1 import SDReIDStage1
from fastreid.modeling import ReidModel, build_model, interface_of
from fastreid.structures import PersonImage
from tests.modeling import toys


class Plain(nn.Module):
    """A model of a user who knows nothing of the interface."""

    def __init__(self):
        super().__init__()
        self.body, self.heads = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))


class Empty(ReidModel):
    """A model that declares nothing."""


@pytest.mark.parametrize("model", [Plain(), Empty()])
def test_every_optional_member_has_a_default(model):
    declared = interface_of(model)
    assert declared.image_transforms(get_cfg(), is_train=True) == {}
    assert declared.training_facts() == {} and list(declared.epoch_tasks()) == []
    declared.check_data([PersonImage("a.jpg", 0, 0, view=7)])
    declared.check_weights()
    assert declared.checkpoint_state_dict().keys() == model.state_dict().keys()


def test_a_model_is_its_own_interface_and_others_keep_their_names():
    model, plain = Empty(), Plain()
    assert interface_of(model) is model
    interface_of(plain)
    assert list(plain.state_dict()) == ["body.weight", "body.bias", "heads.0.weight", "heads.0.bias"]


def test_heads_have_a_rate_of_their_own_by_default():
    plain = Plain()
    (part,) = interface_of(plain).rate_parts()
    assert part.factor == "SOLVER.HEADS_LR_FACTOR" and part.modules == (plain.heads,)


def stage1():
    cfg = toys.stage1_cfg()
    return build_model(cfg, num_classes=2)


def test_sd_reid_declares_its_heads():
    model = stage1()
    (part,) = model.rate_parts()
    assert part.modules == (model.person.identity_head, model.person.view_head)


def test_sd_reid_takes_the_views_that_it_remembers():
    images = [PersonImage(f"{view}.jpg", 0, 0, view) for view in range(3)]
    model = stage1()
    assert isinstance(model, SDReIDStage1)
    model.check_data(images[:2])
    with pytest.raises(ConfigError, match=r"of views \[0, 1, 2\], but MODEL.SDMODEL.VIEW_NUM is 2: set it to 3"):
        model.check_data(images)


def test_image_transforms_are_found_before_any_model_is_built():
    script = """
from fastreid.config import get_cfg
from fastreid.modeling.model import META_ARCH_REGISTRY, image_transforms_of
assert image_transforms_of(get_cfg(), is_train=True) == {}
print("SDReIDStage1" in META_ARCH_REGISTRY)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_members_of_a_plain_module_that_are_not_used_are_logged_once(caplog):
    class Plain(nn.Module):
        backbone_prefixes = ("body.",)

        def epoch_tasks(self):
            raise AssertionError

    for _ in range(2):
        assert interface_of(Plain()).epoch_tasks() == ()
    (message,) = caplog.messages
    assert message.startswith("Plain is not derived from fastreid.modeling.ReidModel")
    assert message.endswith("not used: backbone_prefixes, epoch_tasks")
    interface_of(nn.Linear(1, 1))
    assert len(caplog.messages) == 1
