"""Reading and copying a config tree by full names."""

import pytest

from fastreid.config import get_cfg, value_of, with_values


def test_a_copy_with_other_values_is_frozen_and_leaves_the_tree_alone():
    cfg = get_cfg()
    copy = with_values(cfg, {"MODEL.HEADS.NUM_CLASSES": 7, "OUTPUT_DIR": "x"})
    assert value_of(copy, "MODEL.HEADS.NUM_CLASSES") == 7 and copy.OUTPUT_DIR == "x" and copy.is_frozen()
    assert cfg.MODEL.HEADS.NUM_CLASSES == 0 and cfg.OUTPUT_DIR != "x" and not cfg.is_frozen()


@pytest.mark.parametrize("key", ["MODEL.HEADS.NUM_CLASS", "MODEL.HEAD.NUM_CLASSES", "OUTPUT"])
def test_an_unknown_key_is_refused(key):
    with pytest.raises(KeyError):
        with_values(get_cfg(), {key: 1})
