"""The config tree: inheritance, and errors that help; fast-reid's keys have a file of their own."""

import os

import pytest

from fastreid.config import (
    CfgNode,
    ConfigError,
    configurable,
    expand_paths,
    get_cfg,
    refuse_unsupported,
    resolve_device,
)
from fastreid.config.paths import PATH_KEYS
from fastreid.config.ranges import RULES
from fastreid.config.unsupported import REASONS
from fastreid.utils.devices import _is_usable


def read(cfg, key):
    for part in filter(None, key.split(".")):
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
        (
            "SOLVER: {MAX_EPOCH: many}",
            r"SOLVER.MAX_EPOCH in .*a\.yml must be of type int, like 120; got the str 'many'",
        ),
        ("SOLVER: {MAX_EPOCH: 1.5}", "must be of type int"),
        ("SOLVER: {AMP: True}", "SOLVER.AMP in .* is a group of keys"),
        ("INPUT: {FLIP: {ENABLED: 1}}", "must be of type bool"),
        ("- 1", "must hold KEY: VALUE"),
        ("a: [", "not valid YAML"),
        ("_BASE_: a.yml", "circular"),
        ("_BASE_:", "must be a path or a list of paths, got None"),
        ("_BASE_: [1]", r"must be a path or a list of paths, got \[1\]"),
        ("_BASE_: .", r"\(named by _BASE_ in .*a\.yml\) is a folder"),
        ("_BASE_: 'a\0b'", "not valid YAML|cannot read"),
        (
            "SOLVER: {BASE_LR: 1}\nTEST: {PLOTS: True}\nSOLVER: {MAX_EPOCH: 2}",
            "SOLVER stands in it twice, in line 1 and in line 3",
        ),
        ("SOLVER:\n  BASE_LR: 1\n  BASE_LR: 2", r"SOLVER\.BASE_LR stands in it twice, in line 2 and in line 3"),
        ("SOLVER: {BASE_LR: 1}\nSOLVER.BASE_LR: 2", r"SOLVER\.BASE_LR stands in it twice, in line 1 and in line 2"),
        (
            "SOLVER.BASE_LR: 2\nSOLVER:\n  <<: {BASE_LR: 1}",
            r"SOLVER\.BASE_LR stands in it twice, in line 1 and in line 3",
        ),
        ("SOLVER: {<<: [{BASE_LR: 1}, {BASE_LR: 2}]}", r"SOLVER\.BASE_LR stands in it twice"),
        ('_BASE_: "a\\0b"', r"cannot read the config file '.*a\\x00b' \(named by _BASE_ in .*a\.yml\): embedded null"),
        ("SOLVER.BASE_LR: 2\nSOLVER: 1", "SOLVER both as a value and as a group"),
        ("SOLVER: {OPT_ARGS: [{a: 1, a: 2}]}", "a stands in it twice, in line 1"),
        ("MODEL: {SEED: 5, WEIGHTS: 7}", r"""MODEL.WEIGHTS in .*quote .*MODEL\.WEIGHTS "'7'\""""),
        ("MODEL: {WEIGHTS: 2020-01-01}", r"""WEIGHTS in .* must be of type str.*MODEL\.WEIGHTS "'2020-01-01'\""""),
        (
            "TEST: {PLOTS: no}\nMODEL: {SEED: 010}",
            r"line 2: YAML reads 010 as 8 \(octal\); write 8, or quote what is text",
        ),
        ("SOLVER: {MAX_EPOCH: 1:30}", r"line 1: YAML reads 1:30 as 90 \(base 60\)"),
        ("SOLVER: {BASE_LR: 1:30.5}", r"line 1: YAML reads 1:30.5 as 90.5 \(base 60\)"),
        ("MODEL: {SEED: -0_7}", r"line 1: YAML reads -0_7 as -7 \(octal\)"),
        ("SOLVER: {BASE_LR: 0.1, MAX_EPOCH: 3.0}", "must be of type int.*; write 3$"),
        ("DATASETS: {NAMES: Market1501}", r"""write a list, also of one: DATASETS.NAMES "\['Market1501'\]\""""),
        ("MODEL: {SEED: !!int x}", "not valid YAML"),
        ("MODEL: {SEED: !!python/object:os.system {}}", "not valid YAML, line 1, column 15: could not determine"),
        ("? [a, b]\n: 1", "the key in line 1 is no word"),
        ("a: &x [*x]", "an alias of what begins in line 1 is a part of it"),
        ("MODEL: " + "[" * 3000 + "]" * 3000, "line 1 is nested deeper than 32 levels"),
        ("\n".join(f"{' ' * depth}a:" for depth in range(300)), "is nested deeper than 32 levels"),
        (
            "b: &x0 [1]\n" + "\n".join(f"a{n}: &x{n + 1} [*x{n}]" for n in range(3000)),
            "deeper than 32 levels, with its",
        ),
        ("x0: &x0 [1]\n" + "\n".join(f"a{n}: &x{n + 1} [*x{n}, *x{n}]" for n in range(31)), "more than 10,000 values"),
        (
            "x0: &x0 {a: 1}\n" + "\n".join(f"a{n}: &x{n + 1} {{<<: [*x{n}, *x{n}]}}" for n in range(25)),
            "10,000 values|32 lev",
        ),
        ("_BASE_: aa.yml", r"no config file .*aa\.yml \(named by _BASE_ in .*a\.yml\); did you mean a\.yml"),
    ],
)
def test_mistakes_in_a_file_are_explained_and_change_nothing(write, text, message):
    cfg = get_cfg()
    with pytest.raises(ConfigError, match=message):
        cfg.merge_from_file(write("a.yml", text))
    assert cfg == get_cfg()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_files_of_windows_editors(tmp_path, encoding):
    (tmp_path / "a.yml").write_bytes("# \u5317\u4eac\nMODEL: {WEIGHTS: caf\xe9.pth}\r\n".encode(encoding))
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "a.yml"))
    assert cfg.MODEL.WEIGHTS == "caf\xe9.pth"


@pytest.mark.parametrize("encoding", ["gbk", "latin-1"])
def test_another_encoding_names_the_byte(tmp_path, encoding):
    (tmp_path / "a.yml").write_bytes("MODEL:\n  WEIGHTS: \xe9\n".encode(encoding))
    with pytest.raises(ConfigError, match=r"a\.yml is not text in UTF-8: byte 0x\w\w at position 18 \(line 2\)"):
        get_cfg().merge_from_file(str(tmp_path / "a.yml"))


def test_many_ways_to_one_file_are_read_once(write):
    """2^24 of them, were each followed; what is named last wins, as if they were."""
    write("0.yml", "SOLVER: {MAX_EPOCH: 3}\nMODEL: {SEED: 1}")
    for level in range(24):
        write(f"{level + 1}.yml", f"_BASE_: [{level}.yml, {level}.yml]")
    last = write("last.yml", "_BASE_: [0.yml, other.yml, 24.yml]")
    write("other.yml", "MODEL: {SEED: 2}\nSOLVER: {BASE_LR: 0.5}")
    cfg = get_cfg()
    cfg.merge_from_file(last)
    assert (cfg.SOLVER.MAX_EPOCH, cfg.MODEL.SEED, cfg.SOLVER.BASE_LR) == (3, 1, 0.5)


def test_a_chain_has_an_end(write, tmp_path):
    for level in range(150):
        write(f"{level}.yml", f"_BASE_: {level + 1}.yml")
    with pytest.raises(ConfigError, match="leads to more than 100 files"):
        get_cfg().merge_from_file(str(tmp_path / "0.yml"))
    (tmp_path / "again").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="is circular"):
        get_cfg().merge_from_file(write("b.yml", "_BASE_: again/again/b.yml"))


def test_what_is_no_file_is_refused_and_not_waited_for(write, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for base, said in (("/dev/zero", "a pipe or a device"), ("pipe", "a pipe or a device"), ("/", "is a folder")):
        with pytest.raises(ConfigError, match=f"named by _BASE_ in .*a.yml.*{said}"):
            get_cfg().merge_from_file(write("a.yml", f"_BASE_: {base}"))
    with pytest.raises(ConfigError, match="has 300,000 bytes; a config has at most 262,144"):
        get_cfg().merge_from_file(write("a.yml", "#" * 300_000))
    with pytest.raises(ConfigError, match="cannot read the config file .*longer than the file system takes"):
        get_cfg().merge_from_file("x" * 5000)


@pytest.mark.parametrize("word", ["True", "true", "TRUE", "yes", "on"])
def test_true_and_false_in_any_case(write, word):
    opposite = {"True": "False", "true": "false", "TRUE": "FALSE", "yes": "no", "on": "off"}[word]
    cfg = get_cfg()
    cfg.merge_from_list(["TEST.PLOTS", word, "MODEL.LOSSES.CE.VIEW_ID", opposite])
    assert cfg.TEST.PLOTS is True and cfg.MODEL.LOSSES.CE.VIEW_ID is False
    cfg.merge_from_file(write("a.yml", f"TEST: {{PLOTS: '{opposite}'}}\nINPUT: {{DO_FLIP: '{word}'}}"))
    assert cfg.TEST.PLOTS is False and cfg.INPUT.FLIP.ENABLED is True


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODEL.WEIGHTS", "5"], r"""; quote .*: MODEL\.WEIGHTS "'5'" \('5' in a file\)$"""),
        (["OUTPUT_DIR", "None"], r"""; quote .*: OUTPUT_DIR "'None'\""""),
        (["TEST.PLOTS", "1"], "must be of type bool"),
        (["", "1"], "a key in the command line is empty; is it a variable of the shell that is not set"),
        (["INPUT.SIZE_TRAIN", "256x128"], r"""write a list of numbers: INPUT.SIZE_TRAIN "\[256, 128\]"$"""),
        (["DATASETS.NAMES", "A, B"], r"""write a list, also of one: DATASETS.NAMES "\['A', 'B'\]"$"""),
        (["SOLVER.MAX_EPOCH", "1e2"], "must be of type int, like 120; got the float 100.0; write 100$"),
        (["SOLVER.BASE_LR", "fast"], "must be of type float"),
        (["A." * 5000 + "B", "1"], "unknown key"),
        (["--num-gpus", "2"], "--num-gpus stands among the config keys: options come before"),
        (["SOLVER.STEPS", "[" * 5000], "must be of type list"),
        (["MODEL.WEIGHTS", "~nobody-has-this-name/x"], "no user whose home folder is"),
    ],
)
def test_values_on_the_command_line_say_what_to_type_and_change_nothing(words, message):
    cfg = get_cfg()
    with pytest.raises(ConfigError, match=message):
        cfg.merge_from_list(["SOLVER.BASE_LR", "0.5", *words])
    assert cfg == get_cfg()


def test_the_home_folder_in_every_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = [key for key in RULES if key.rpartition(".")[2].endswith(("PATH", "_DIR", "WEIGHTS", "ROOT", "IMPORTS"))]
    assert set(paths) - {"TEST.SDMODEL.VIEW_WEIGHTS"} <= set(PATH_KEYS)  # those are numbers
    for key in PATH_KEYS:
        is_list = isinstance(read(get_cfg(), key), list)
        merged, code = get_cfg(), get_cfg()
        merged.merge_from_list([key, "['~/x']" if is_list else "~/x"])
        assert read(merged, key) == ([f"{tmp_path}/x"] if is_list else f"{tmp_path}/x")
        *groups, last = key.split(".")
        read(code, ".".join(groups))[last] = ["~/x"] if is_list else "~/x"
        code.freeze()
        expand_paths(code)
        assert code == merged and code.is_frozen()


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
    with pytest.raises(ConfigError, match="no torch device; devices here: auto, cpu"):
        resolve_device("gpu")
    with pytest.raises(ConfigError, match="no torch device"):
        resolve_device("")


@pytest.mark.parametrize("name", ["xla", "mkldnn", "vulkan", "hpu", "meta", "opengl", "ipu", "lazy", "privateuseone"])
def test_a_device_that_this_torch_cannot_use_is_refused(name):
    with pytest.raises(ConfigError, match=f"MODEL.DEVICE is '{name}', a device that .* devices here: auto, cpu"):
        resolve_device(name)


def test_a_cuda_device_with_too_high_a_number_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    _is_usable.cache_clear()
    assert resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(ConfigError, match=r"'cuda:2', .* auto, cpu, cuda, cuda:0, cuda:1"):
        resolve_device("cuda:2")
    _is_usable.cache_clear()


@pytest.mark.parametrize("available", [True, False])
def test_mps_is_taken_where_it_is(monkeypatch, available):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: available)
    _is_usable.cache_clear()
    if available:
        assert resolve_device("mps") == "mps"
    else:
        with pytest.raises(ConfigError, match="'mps', a device that torch cannot use here"):
            resolve_device("mps")
    _is_usable.cache_clear()


def test_it_is_a_yacs_node():
    cfg = CfgNode({"A": 1})
    assert cfg.A == 1 and "A: 1" in cfg.dump()


def test_an_option_after_the_keys_is_told_whatever_the_count():
    for words in (["OUTPUT_DIR", "dry", "--dry-run"], ["OUTPUT_DIR", "--dry-run", "dry"]):
        with pytest.raises(ConfigError, match="--dry-run stands among the config keys: options come before"):
            get_cfg().merge_from_list(words)


def test_a_list_with_a_word_that_is_no_number_gets_a_remedy_that_works():
    with pytest.raises(ConfigError) as error:
        get_cfg().merge_from_list(["MODEL.PIXEL_MEAN", "[nan,1,1]"])
    remedy = str(error.value).rpartition(" as in ")[2]
    assert "['[" not in str(error.value)
    get_cfg().merge_from_list([remedy.split(" ", 1)[0], remedy.split(" ", 1)[1].strip('"')])


def test_an_unknown_key_like_no_other_is_a_sentence():
    with pytest.raises(ConfigError, match=r"unknown key QQQQ in the command line\. Keys beside it: "):
        get_cfg().merge_from_list(["QQQQ", "1"])


def test_a_text_is_merged_as_a_file_is(write):
    from_file, from_text = get_cfg(), get_cfg()
    text = "MODEL: {SEED: 5}\nINPUT: {SIZE_TEST: [32, 16]}\nSOLVER.BASE_LR: 1"
    from_file.merge_from_file(write("a.yml", text))
    from_text.merge_from_text(text, "it")
    assert from_text == from_file != get_cfg()
    again = get_cfg()
    again.merge_from_text(from_text.dump(), "it")
    assert again == from_text
    for wrong, message in (
        ("- 1", "^it must hold KEY"),
        ("_BASE_: a.yml", "^unknown key _BASE_ in it"),
        ("a: [", "^it is not"),
    ):
        with pytest.raises(ConfigError, match=message):
            again.merge_from_text(wrong, "it")
    assert again == from_text
