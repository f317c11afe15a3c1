"""The config tree: inheritance, and errors that help; fast-reid's keys have a file of their own."""

import pytest

from fastreid.config import CfgNode, ConfigError, configurable, get_cfg, refuse_unsupported, resolve_device
from fastreid.config.unsupported import REASONS


def read(cfg, key):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def test_each_call_gives_a_copy():
    get_cfg().MODEL.SEED = 5
    assert get_cfg().MODEL.SEED == 1111


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_base_files_are_inherited_in_order(write):
    write("a.yml", "SOLVER: {BASE_LR: 0.1, MAX_EPOCH: 3}\nMODEL: {SEED: 1}")
    write("b.yml", "SOLVER: {BASE_LR: 0.2}")
    path = write("c.yml", "_BASE_: [a.yml, b.yml]\nMODEL: {SEED: 7}")
    cfg = get_cfg()
    cfg.merge_from_file(path)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_EPOCH, cfg.MODEL.SEED) == (0.2, 3, 7)


def test_lists_tuples_whole_floats_and_yaml_tuples_convert(write):
    cfg = get_cfg()
    cfg.merge_from_file(
        write("a.yml", 'DATASETS:\n  NAMES: [A, B]\n  TESTS: ("C",)\nSOLVER:\n  BASE_LR: 1\n  STEPS: (1, 2)\n')
    )
    assert cfg.DATASETS.NAMES == ("A", "B") and cfg.DATASETS.TESTS == ("C",)
    assert cfg.SOLVER.BASE_LR == 1.0 and isinstance(cfg.SOLVER.BASE_LR, float) and cfg.SOLVER.STEPS == [1, 2]
    cfg.merge_from_list(["SOLVER.BASE_LR", "1e-3", "MODEL.WEIGHTS", "a/b.pth", "DATASETS.NAMES", "('X',)"])
    assert (cfg.SOLVER.BASE_LR, cfg.MODEL.WEIGHTS, cfg.DATASETS.NAMES) == (1e-3, "a/b.pth", ("X",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVER: {BASE_RL: 1}", r"unknown key SOLVER.BASE_RL in .*a\.yml; did you mean SOLVER.BASE_LR"),
        ("SOLVR: {BASE_LR: 1}", r"unknown key SOLVR in .*a\.yml; did you mean SOLVER"),
        ("SOLVER: {MAX_EPOCH: many}", r"SOLVER.MAX_EPOCH in .*a\.yml must be a int like 120, got the str 'many'"),
        ("SOLVER: {MAX_EPOCH: 1.5}", "must be a int"),
        ("SOLVER: {AMP: True}", "SOLVER.AMP in .* is a group of keys"),
        ("INPUT: {FLIP: {ENABLED: 1}}", "must be a bool"),
        ("- 1", "must hold KEY: VALUE"),
        ("a: [", "not valid YAML"),
        ("_BASE_: a.yml", "circular"),
        ("_BASE_:", "must be a path or a list of paths, got None"),
        ("_BASE_: [1]", r"must be a path or a list of paths, got \[1\]"),
        ("_BASE_: aa.yml", r"no config file .*aa\.yml \(named by _BASE_ in .*a\.yml\); did you mean a\.yml"),
    ],
)
def test_mistakes_in_a_file_are_explained_and_change_nothing(write, text, message):
    cfg = get_cfg()
    with pytest.raises(ConfigError, match=message):
        cfg.merge_from_file(write("a.yml", text))
    assert cfg == get_cfg()


def test_mistakes_on_the_command_line_are_explained():
    with pytest.raises(ConfigError, match="unknown key MODEL.WEIGHT in the command line; did you mean MODEL.WEIGHTS"):
        get_cfg().merge_from_list(["MODEL.WEIGHT", "x"])
    with pytest.raises(ConfigError, match="pairs KEY VALUE, got 1 words"):
        get_cfg().merge_from_list(["MODEL.SEED"])


def test_a_frozen_config_is_left_alone():
    cfg = get_cfg()
    cfg.freeze()
    with pytest.raises(AttributeError, match="frozen"):
        cfg.merge_from_list(["MODEL.SEED", "3"])


def test_every_refused_key_exists_and_is_refused_with_its_reason():
    refuse_unsupported(get_cfg())
    for key, reason in REASONS.items():
        cfg, default = get_cfg(), read(get_cfg(), key)
        changed = {bool: lambda v: not v, str: lambda v: v + "x", list: lambda v: [*v, 1]}.get(
            type(default), lambda v: v + 1
        )
        cfg.merge_from_list([key, changed(default)])
        switch = f"{key.rpartition('.')[0]}.ENABLED"
        if switch in REASONS and switch != key:
            refuse_unsupported(cfg)  # an option of what is switched off
            cfg.merge_from_list([switch, True])
        with pytest.raises(ConfigError) as error:
            refuse_unsupported(cfg)
        assert key in str(error.value) and reason in str(error.value)


def test_configurable_class_and_function():
    class Thing:
        @configurable
        def __init__(self, *, size, name):
            self.size, self.name = size, name

        @classmethod
        def from_config(cls, cfg, size):
            return {"size": size, "name": cfg.OUTPUT_DIR}

    thing = Thing(get_cfg(), size=3)
    assert (thing.size, thing.name) == (3, "logs/")
    assert Thing(get_cfg(), size=3, name="mine").name == "mine"
    assert Thing(size=1, name="bare").name == "bare"

    @configurable(from_config=lambda cfg: {"seed": cfg.MODEL.SEED})
    def build(seed):
        return seed

    assert build(get_cfg()) == 1111 and build(5) == 5


def test_configurable_without_from_config_is_an_error():
    class Thing:
        @configurable
        def __init__(self, size):
            self.size = size

    with pytest.raises(TypeError, match="no from_config"):
        Thing(get_cfg())


def test_devices():
    assert resolve_device("auto") in ("cpu", "cuda") and resolve_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="no torch device"):
        resolve_device("gpu")


def test_it_is_a_yacs_node():
    cfg = CfgNode({"A": 1})
    assert cfg.A == 1 and "A: 1" in cfg.dump()
