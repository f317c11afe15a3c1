"""Keys that user's modules add to the config, and the sections of methods."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from fastreid.config import (
    ConfigError,
    Key,
    add_section,
    check_ranges,
    expand_paths,
    get_cfg,
    imports_in,
    refuse_unsupported,
)
from fastreid.config import defaults as defaults_module
from fastreid.config.method_config import methods
from fastreid.config.paths import PATH_KEYS
from fastreid.config.ranges import COUNT, RULES, TEXT
from fastreid.config.tree import leaves
from fastreid.config.unread import log_unread
from fastreid.config.unsupported import REASONS, require_unread
from fastreid.engine.setup import tool_argument_parser
from fastreid.methods import models
from fastreid.modeling import META_ARCH_REGISTRY


@pytest.fixture(autouse=True)
def restored_tables(monkeypatch):
    """Restore the tree and the tables after each test."""
    monkeypatch.setattr(defaults_module, "_C", get_cfg())
    rules, reasons, paths = dict(RULES), dict(REASONS), list(PATH_KEYS)
    yield
    for table, before in ((RULES, rules), (REASONS, reasons)):
        table.clear()
        table.update(before)
    PATH_KEYS[:] = paths


def add_toy():
    add_section("MODEL.TOY", {"WIDTH": Key(64, COUNT), "NAME": "small", "PATH": Key("", TEXT, is_path=True)})


def test_added_keys_can_be_set_and_are_checked(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    before = get_cfg()
    add_toy()
    cfg = get_cfg()
    assert (cfg.MODEL.TOY.WIDTH, cfg.MODEL.TOY.NAME) == (64, "small")
    cfg.merge_from_list(["MODEL.TOY.WIDTH", "0", "MODEL.TOY.PATH", "~/x"])
    assert cfg.MODEL.TOY.PATH == f"{tmp_path}/x"
    with pytest.raises(ConfigError, match="MODEL.TOY.WIDTH must be 1 or more, got 0"):
        check_ranges(cfg)
    with pytest.raises(ConfigError, match="must be of type int, like 64"):
        get_cfg().merge_from_list(["MODEL.TOY.WIDTH", "wide"])
    check_ranges(before)  # a tree that was made before


def test_a_tree_that_was_made_before_a_key_was_added_is_still_valid():
    before = get_cfg()
    add_toy()
    add_section("MODEL.BACKBONE", {"SPEED": Key(1, COUNT, refused="backbones have one speed")})
    refuse_unsupported(before)
    expand_paths(before)
    log_unread(before)
    require_unread(before, "MODEL.BACKBONE", reads=("NAME",), why="a toy")
    assert "TOY" not in before.MODEL and "SPEED" not in before.MODEL.BACKBONE


def test_keys_can_join_a_group_and_be_added_twice():
    add_section("MODEL.HEADS", {"NUM_PARTS": 2})
    add_section("MODEL.HEADS", {"NUM_PARTS": 2})
    assert get_cfg().MODEL.HEADS.NUM_PARTS == 2 and get_cfg().MODEL.HEADS.NAME == "EmbeddingHead"


@pytest.mark.parametrize(
    ("group", "keys", "said"),
    [
        ("MODEL.HEADS", {"NORM": "GN"}, "a key MODEL.HEADS.NORM already, with the default 'BN'"),
        ("MODEL", {"HEADS": 3}, "a key MODEL.HEADS already"),
        ("MODEL.DEVICE", {"KIND": 3}, "DEVICE in it is a key, not a group of keys"),
    ],
)
def test_keys_of_the_tree_cannot_be_replaced(group, keys, said):
    with pytest.raises(ConfigError, match=said):
        add_section(group, keys)


def test_a_key_may_be_accepted_at_its_default_only():
    add_section("MODEL.TOY", {"SPEED": Key(1, COUNT, refused="toys have one speed")})
    cfg = get_cfg()
    refuse_unsupported(cfg)
    cfg.MODEL.TOY.SPEED = 2
    with pytest.raises(ConfigError, match="MODEL.TOY.SPEED=2 .toys have one speed"):
        refuse_unsupported(cfg)


def test_files_to_import_are_known_before_the_merge(tmp_path):
    (tmp_path / "base.yml").write_text("IMPORTS: [a.py]\nMODEL: {TOY: {WIDTH: 3}}\n")
    (tmp_path / "run.yml").write_text("_BASE_: base.yml\nIMPORTS: [b.py, c.py]\n")
    base, run = str(tmp_path / "base.yml"), str(tmp_path / "run.yml")
    assert imports_in([], []) == [] and imports_in([base], []) == ["a.py"] and imports_in([run], []) == ["b.py", "c.py"]
    assert imports_in([run], ["SOLVER.OPT", "SGD", "IMPORTS", "['d.py']"]) == ["d.py"]
    assert imports_in([run], ["IMPORTS", "3"]) == []  # refused by the merge


def test_methods_own_every_model_and_their_keys_are_in_the_tree():
    assert {model for method in methods() for model in method.models} == set(models.__all__) <= set(META_ARCH_REGISTRY)
    tree = dict(leaves(get_cfg()))
    for method in methods():
        assert set(method.loss_models) <= set(method.models)
        assert {name: key.default for name, key in method.keys.items()}.items() <= tree.items()


def test_a_config_is_made_without_torch():
    script = "import sys, fastreid.config; fastreid.config.get_cfg(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_trainer_imports_a_module_before_it_merges_its_keys(tmp_path):
    (tmp_path / "toy.py").write_text(
        "from fastreid.config import Key, add_section\n"
        "from fastreid.config.ranges import COUNT\n"
        'add_section("MODEL.TOY", {"WIDTH": Key(64, COUNT)})\n'
    )
    (tmp_path / "toy.yml").write_text(f"IMPORTS: [{tmp_path / 'toy.py'}]\nMODEL: {{TOY: {{WIDTH: 3}}}}\n")
    spec = importlib.util.spec_from_file_location("train_net", Path(__file__).parents[2] / "tools/train_net.py")
    train_net = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train_net)
    args = tool_argument_parser().parse_args(["--config-file", str(tmp_path / "toy.yml"), "MODEL.SEED", "5"])
    cfg = train_net.setup_cfg(args)
    assert (cfg.MODEL.TOY.WIDTH, cfg.MODEL.SEED) == (3, 5)
