"""The command line of PISL's release: its options become config keys, and the equivalent command is the same run."""

import importlib
import re
import shlex

import pytest

from fastreid.engine.setup import tool_argument_parser
from tests.miniature import FEW_STEPS, ROOT, rendered, run_tool
from tests.recipes import leaves, merged

TOOL = "tools/train_pisl_cam.py"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.chdir(ROOT)
    return importlib.import_module("train_pisl_cam")


def changed(words):
    """Return the recipe of arguments of train_net.py, and {key: value} of what they change."""
    args = tool_argument_parser().parse_args(words)
    cfg = merged(ROOT / args.config_file)
    before = leaves(cfg)
    cfg.merge_from_list(args.opts)
    return args, {key: value for key, value in leaves(cfg).items() if value != before[key]}


# What every training has that is not in the recipes.
ALWAYS = {"DATALOADER.NUM_WORKERS": 4, "MODEL.SEED": 1}
FULL_SIZE = {"INPUT.SIZE_TRAIN": [384, 128], "INPUT.SIZE_TEST": [384, 128]}

# Commands of the release's description, without the name of the script.
COMMANDS = {
    "-d market1501 --eps 0.4 --logs-dir L": ("market1501", {"OUTPUT_DIR": "L"}),
    "-d msmt17 --eps 0.6 --lam-cam 1.0 --logs-dir L": ("msmt17", {"OUTPUT_DIR": "L"}),
    "-d veri -n 8 --height 256 --width 256 --eps 0.7": ("veri", {}),
    # Defaults that are not the recipe's.
    "-d market1501": ("market1501", {"CLUSTER.EPS": 0.5}),
    "-d msmt17": ("msmt17", {"CLUSTER.EPS": 0.5, "PISL.CAM.WEIGHT": 0.5}),
    "-d veri": ("veri", {"CLUSTER.EPS": 0.5, "DATALOADER.NUM_INSTANCE": 4} | FULL_SIZE),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_documented_commands_are_the_recipes(tool, command):
    recipe, keys = COMMANDS[command]
    args, found = changed(tool.equivalent(shlex.split(command)))
    assert args.config_file == f"configs/PISL/{recipe}.yml" and not args.eval_only
    assert found == keys | ALWAYS


def test_resume_continues_a_run_or_evaluates_a_checkpoint_as_the_release_does(tool):
    def same(first, second):
        return tool.equivalent(shlex.split(first)) == tool.equivalent(shlex.split(second))

    assert same("-d market1501 --resume W.pth --rerank", "-d market1501 --evaluate W.pth --rerank")
    assert "--resume" in tool.equivalent(shlex.split("-d market1501 --resume"))
    keys = "SOLVER.MAX_EPOCH 3"
    assert tool.equivalent(shlex.split(f"-d market1501 --resume {keys}"))[-2:] == keys.split()
    with pytest.raises(SystemExit):
        tool.equivalent(shlex.split("-d market1501 --resume W --evaluate V"))


NO_CAMERA = {"PISL.CAM.ENABLED": False, "DATALOADER.SAMPLER_TRAIN": "NaiveIdentitySampler"}
EACH = {
    "-b 32": {"SOLVER.IMS_PER_BATCH": 32},
    "-j 3": {"DATALOADER.NUM_WORKERS": 3},
    "-n 2": {"DATALOADER.NUM_INSTANCE": 2},
    "--height 256": {"INPUT.SIZE_TRAIN": [256, 128], "INPUT.SIZE_TEST": [256, 128]},
    "--width 192": {"INPUT.SIZE_TRAIN": [384, 192], "INPUT.SIZE_TEST": [384, 192]},
    "--part 4": {"PISL.NUM_PARTS": 4},
    "--lam-cam 0.7": {"PISL.CAM.WEIGHT": 0.7},
    "--Wcam 0.7": {"PISL.CAM.WEIGHT": 0.7},
    "--lam-diff 0.2": {"PISL.SCD.WEIGHT": 0.2},
    "--Wdiff 0.2": {"PISL.SCD.WEIGHT": 0.2},
    "--Wref 0.3": {"PISL.PSC.REFINE": 0.3},
    "--se 7": {"PISL.PSC.SMOOTH_START": 7},
    "--knn 10": {"PISL.PSC.KNN": 10},
    "--epochs 80": {"SOLVER.MAX_EPOCH": 80, "SOLVER.STEPS": [20, 40, 60]},
    "--epochs 20": {"SOLVER.MAX_EPOCH": 20, "SOLVER.STEPS": []},
    "--step-size 15": {"SOLVER.STEPS": [15, 30, 45]},
    "--iters 200": {"SOLVER.ITERS_PER_EPOCH": 200},
    "--lr 1e-4": {"SOLVER.BASE_LR": 1e-4},
    "--weight-decay 1e-3": dict.fromkeys(
        ("SOLVER.WEIGHT_DECAY", "SOLVER.WEIGHT_DECAY_NORM", "SOLVER.WEIGHT_DECAY_BIAS"), 1e-3
    ),
    "--k1 20": {"CLUSTER.K1": 20},
    "--k2 4": {"CLUSTER.K2": 4},
    "--eval-step 10": {"TEST.EVAL_PERIOD": 10},
    "--seed 7": {"MODEL.SEED": 7},
    "--data-dir /data": {"DATASETS.ROOT": "/data"},
    "--no-camera": NO_CAMERA | {"OUTPUT_DIR": "logs/PISL/market1501_no_camera"},
    "--no-camera --logs-dir L": NO_CAMERA | {"OUTPUT_DIR": "L"},
    "--rerank": {"TEST.RERANK.ENABLED": True},
    "PISL.SDM.LOC_CHANNELS 64": {"PISL.SDM.LOC_CHANNELS": 64},
}


@pytest.mark.parametrize("words", EACH)
def test_each_option_sets_its_keys(tool, words):
    _, found = changed(tool.equivalent(["-d", "market1501", "--eps", "0.4", *shlex.split(words)]))
    assert found == ALWAYS | EACH[words]


def test_an_option_is_a_key_even_if_the_recipe_has_its_value(tool):
    words = tool.equivalent(shlex.split("-d market1501 --eps 0.4 --lam-diff 0.1"))
    pairs = dict(zip(words[2::2], words[3::2], strict=True))
    assert (pairs["CLUSTER.EPS"], pairs["PISL.SCD.WEIGHT"]) == ("0.4", "0.1") and "PISL.NUM_PARTS" not in pairs


def test_options_of_train_net_are_passed_on(tool):
    command = "-d market1501 --resume --dry-run --num-gpus 2 --overlay configs/_base_/pisl_released.yml"
    args, _ = changed(tool.equivalent(shlex.split(command)))
    assert (args.resume, args.dry_run, args.num_gpus) == (True, True, 2)
    assert args.overlay == ["configs/_base_/pisl_released.yml"]


def test_a_checkpoint_is_evaluated(tool):
    args, found = changed(tool.equivalent(shlex.split("-d veri --evaluate W --rerank -b 32 --data-dir /data")))
    assert args.eval_only and args.config_file == "configs/PISL/veri.yml"
    assert found == {
        "MODEL.WEIGHTS": "W",
        "TEST.RERANK.ENABLED": True,
        "TEST.IMS_PER_BATCH": 32,
        "DATASETS.ROOT": "/data",
    }
    _, found = changed(tool.equivalent(shlex.split("-d veri --evaluate W --height 384 --width 128")))
    assert found == {"MODEL.WEIGHTS": "W", "INPUT.SIZE_TEST": [384, 128]}


WRONG = {
    "--eps 0.4": "required: -d/--dataset",
    "-d duke": r"invalid choice: 'duke' \(choose from '?market1501'?, '?msmt17'?, '?veri'?\)",
    "-d veri --lam 1": "unrecognized arguments: --lam",
    "-d veri --eps high": "argument --eps: invalid float value: 'high'",
    "-d veri --evaluate W --eps 0.4 -n 4 --resume": "trains nothing: -n, --eps, --resume",
    "-d veri --step-size 0": "--step-size must be at least 1, got 0",
    "-d veri --evaluate W --height 256": "both --height and --width",
}


@pytest.mark.parametrize("command", WRONG)
def test_wrong_options_are_told(tool, command, capsys):
    with pytest.raises(SystemExit, match="2"):
        tool.equivalent(shlex.split(command))
    said = capsys.readouterr().err
    assert re.search(WRONG[command], said) and "[--lam-cam N]" in said


def test_the_equivalent_command_is_the_same_run(tmp_path, tmp_path_factory):
    data = rendered(tmp_path_factory.getbasetemp(), "Market1501")
    small = ["MODEL.BACKBONE.PRETRAIN", "False", "PISL.SDM.LOC_CHANNELS", "8", *FEW_STEPS]
    command = ["-d", "market1501", "--eps", "0.45", "--logs-dir", str(tmp_path / "logs"), "--data-dir", str(data)]
    said = run_tool(TOOL, *command, "--dry-run", *small, cwd=ROOT)
    (line,) = [line for line in said.splitlines() if line.startswith("equivalent: ")]
    config = tmp_path / "logs/config.yaml"
    first = config.read_text()
    assert "EPS: 0.45" in first and "2 epochs of 400 iterations" in said
    config.unlink()
    _, _, script, *words = shlex.split(line)
    run_tool(script, *words, cwd=ROOT)
    assert config.read_text() == first
