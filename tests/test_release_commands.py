"""The commands that the README of the SD-ReID release gives, as they stand there, at a tiny size."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest
import torch

from tests.miniature import FEW_STEPS, ROOT, finished_quickstart, rendered
from tests.recipes import PAIRS, TINY_MODEL, asset_keys, merged

SCRIPTS = {
    "CARGO.sh": PAIRS["CARGO"],
    "go/base.sh": PAIRS["v1"],
    "run_v2.sh": PAIRS["v2"],
    "run_LAGPeR.sh": PAIRS["LAGPeR"],
    "run_G2APS_ReID.sh": PAIRS["G2APS"],
    "run_G2APS_ReID_128.sh": PAIRS["G2APS_128"],
}
KERNELS = "fastreid/evaluation/rank_cylib"


def shell(command, folder, **environment):
    """Run a command line of bash in `folder`, where `python` is the Python of the tests."""
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    options = {"env": os.environ | {"PATH": path} | environment, "capture_output": True, "text": True}
    done = subprocess.run(["bash", "-c", command], cwd=folder, timeout=600, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


# Building


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the source files, without anything compiled."""
    folder = tmp_path_factory.mktemp("clone") / "clone"
    folder.mkdir()
    for name in ("setup.py", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    compiled = shutil.ignore_patterns("*.so", "*.pyd", "*.c", "__pycache__")
    for name in ("fastreid", "tools", "go"):
        shutil.copytree(ROOT / name, folder / name, ignore=compiled)
    for script in ROOT.glob("*.sh"):
        shutil.copy(script, folder)
    return folder


BUILD = "python setup.py build_ext --inplace"


def test_make_builds_the_kernels_by_the_same_command(clone):
    assert shell(f"cd {KERNELS}; make --dry-run all", clone) == f"{BUILD}\n"


@pytest.mark.slow
def test_the_kernels_are_built_in_their_folder(clone):
    pytest.importorskip("Cython", reason="the modules are compiled through Cython")
    shell(f"cd {KERNELS}; {BUILD}", clone)
    imported = "from fastreid.evaluation.rank_cylib.rank_cy import Queries; import fastreid; print(fastreid.__file__)"
    said = shell(f"python -c {shlex.quote(imported)}", clone, PYTHONPATH=str(clone))
    assert said.startswith(str(clone))


def test_outside_of_a_clone_the_build_says_so(tmp_path):
    shutil.copy(ROOT / KERNELS / "setup.py", tmp_path)
    done = subprocess.run([sys.executable, tmp_path / "setup.py"], capture_output=True, text=True)
    assert done.returncode == 1 and "in a clone of the repository" in done.stderr


def test_every_file_compiles(clone):
    shell("python -m compileall -q fastreid tools", clone, PYTHONPYCACHEPREFIX=str(clone / "cache"))
    assert len(list((clone / "cache").rglob("*.pyc"))) > 200


def test_every_script_parses(clone):
    shell("for script in *.sh go/*.sh; do bash -n $script || exit 1; done", clone)


# Training and evaluation


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A copy of the repository in which the tiny UNet has been made."""
    scratch, _ = finished_quickstart(tmp_path_factory.getbasetemp())
    scratch.calls()
    return scratch


@pytest.fixture
def tiny(scratch):
    """Config keys that replace the pretrained weights by tiny random ones."""
    assets = asset_keys(scratch.folder / "pretrained/random-tiny")
    return ["MODEL.BACKBONE.PRETRAIN", "False", *TINY_MODEL, *assets]


@pytest.mark.parametrize("script", SCRIPTS)
def test_both_stages_get_the_arguments(scratch, script):
    environment = {"ON_TOOL": "note", "NUM_GPUS": "3"}
    shell(f"bash {script} SOLVER.MAX_EPOCH 3", scratch.folder, **environment)
    assert scratch.calls() == [
        f"tools/train_net.py --config-file configs/{name}.yml --resume --num-gpus 3 SOLVER.MAX_EPOCH 3"
        for name in SCRIPTS[script]
    ]


@pytest.mark.parametrize("name", ["market1501", "msmt17", "veri"])
def test_pisl_gets_the_arguments(scratch, name):
    shell(f"bash run_pisl.sh {name} CLUSTER.EPS 0.3", scratch.folder, ON_TOOL="note")
    (call,) = scratch.calls()
    recipe = f"configs/PISL/{name}.yml"
    assert call == f"tools/train_net.py --config-file {recipe} --resume --num-gpus 1 CLUSTER.EPS 0.3"
    assert (ROOT / recipe).exists()


@pytest.mark.parametrize("words", [(), ("duke",), ("CLUSTER.EPS", "0.3")])
def test_pisl_needs_one_of_its_data_sets(scratch, words):
    scratch.calls()
    done = scratch.script("run_pisl.sh", *words, on_tool="fail")
    assert done.returncode == 2 and scratch.calls() == []
    named, _, usage = done.stderr.strip().partition(" is none of the data sets; usage: ")
    assert named == f"run_pisl.sh: '{words[0] if words else ''}'"
    assert usage == "./run_pisl.sh DATASET [KEY VALUE …]; data sets: market1501 msmt17 veri"


def test_the_scripts_run_from_anywhere_with_relative_paths(scratch, tmp_path):
    (tmp_path / "linked.sh").symlink_to(scratch.folder / "run_v2.sh")
    (tmp_path / "py").symlink_to(scratch.python)
    (tmp_path / "data").mkdir()
    shell("./linked.sh", tmp_path, PYTHON_BIN="./py", FASTREID_DATASETS="data", ON_TOOL="note")
    assert len(scratch.calls()) == 2


def results_of(folder):
    """The figures that a run wrote."""
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_trains_both_stages_and_each_checkpoint_is_evaluated(scratch, script, tiny, tmp_path_factory):
    """On rendered people in the layout of the benchmark; only sizes are changed."""
    data = rendered(tmp_path_factory.getbasetemp())
    environment = {"FASTREID_DATASETS": str(data), "PYTHONPATH": str(ROOT)}
    shell(f"bash {script} {shlex.join(tiny)}", scratch.folder, **environment)
    first, second = (merged(ROOT / f"configs/{name}.yml") for name in SCRIPTS[script])
    assert second.MODEL.WEIGHTS.startswith(first.OUTPUT_DIR)
    for name, cfg in zip(SCRIPTS[script], (first, second), strict=True):
        check_run(scratch.folder / cfg.OUTPUT_DIR, cfg)
        for file in ("model_best.pth", "model_final.pth"):
            output = f"logs/again/{cfg.OUTPUT_DIR}/{file}"
            words = ["MODEL.WEIGHTS", f"{cfg.OUTPUT_DIR}/{file}", "OUTPUT_DIR", output]
            # Another number of people than the checkpoint's: evaluation reads no classifier.
            words += ["MODEL.HEADS.NUM_CLASSES", "5", "DATASETS.ROOT", str(data), *tiny, *FEW_STEPS]
            scratch.tool("tools/train_net.py", "--config-file", f"configs/{name}.yml", "--eval-only", *words)
            assert sorted(results_of(scratch.folder / output)) == sorted(cfg.DATASETS.TESTS)
        assert results_of(scratch.folder / output) == results_of(scratch.folder / cfg.OUTPUT_DIR)
    if script == "run_v2.sh":  # the person and all three views
        model = torch.load(scratch.folder / second.OUTPUT_DIR / "model_final.pth", weights_only=True)["model"]
        assert len(model["person.memory.centres"]) == 3 and model["person.memory.seen"].all()


def check_run(folder, cfg):
    """The run has figures of each protocol, from one query of each of four people in each view that is asked for."""
    results = results_of(folder)
    assert sorted(results) == sorted(cfg.DATASETS.TESTS)
    views = {name: 2 if name in ("CARGO", "CARGO_AG") else 1 for name in results}
    assert {name: row["valid_queries"] for name, row in results.items()} == {n: 4 * v for n, v in views.items()}
