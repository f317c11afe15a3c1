"""Comparing backbones: all settings on twelve coloured people, restarts, and what is wrong with a command."""

import importlib
import json
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid.config import get_cfg
from fastreid.engine import side_by_side
from fastreid.modeling import build_model
from fastreid.utils.checkpoint import read_checkpoint
from fastreid.utils.lock import NAME
from tests.miniature import ROOT, run_tool
from tests.tools.holding import locked_by_another
from tests.warm_python import warm_python

SUPERVISED = """# Trains a tiny network on a table of images.
MODEL:
  META_ARCHITECTURE: Baseline
  DEVICE: cpu
  BACKBONE: {NAME: build_timm_backbone, TIMM_NAME: test_vit}
  HEADS: {WITH_BNNECK: True}
  LOSSES: {NAME: [CrossEntropyLoss]}
INPUT: {SIZE_TRAIN: [32, 32], SIZE_TEST: [32, 32]}
DATALOADER: {NUM_WORKERS: 0, SAMPLER_TRAIN: NaiveIdentitySampler, NUM_INSTANCE: 2}
SOLVER: {MAX_EPOCH: 1, IMS_PER_BATCH: 4, ITERS_PER_EPOCH: 2, WARMUP_ITERS: 0}
TEST: {EVAL_PERIOD: 1}
"""
# The network and the size of images are those of the other recipe.
UNSUPERVISED = """# Trains it without labels.
MODEL:
  META_ARCHITECTURE: ClusterContrast
  DEVICE: cpu
  HEADS: {WITH_BNNECK: True}
CLUSTER: {METHOD: dbscan, EPS: 0.9, MIN_SAMPLES: 2, K1: 4, K2: 2}
DATALOADER: {NUM_WORKERS: 0, SAMPLER_TRAIN: RandomMultipleGallerySampler, NUM_INSTANCE: 2}
SOLVER: {MAX_EPOCH: 1, IMS_PER_BATCH: 4, ITERS_PER_EPOCH: 2, WARMUP_ITERS: 0}
TEST: {EVAL_PERIOD: 1}
"""
TARGET, SOURCE = "csv:target.csv", "csv:source.csv"
ALL = ["supervised", "small_scale", "few_shot", "unsupervised", "adaptation", "generalization"]


def write_people(folder, name, first, people=6):
    """Write a table of people of one colour each, in two cameras."""
    draw = np.random.default_rng(first)
    lines = ["path,person,camera,split"]
    for person in range(first, first + people):
        colour = draw.integers(90, 165, 3)
        for split, count in (("train", 4), ("query", 1), ("gallery", 2)):
            for number in range(count):
                pixels = np.clip(colour + draw.integers(-90, 90, (32, 16, 3)), 0, 255).astype(np.uint8)
                path = f"{name}_{person}_{split}{number}.png"
                Image.fromarray(pixels).save(folder / path)
                camera = 9 if split == "query" else number % 2
                who = person if split == "train" else 100 + person
                lines.append(f"{path},{who},{camera},{split}")
    (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two data sets, two recipes and the weights of a backbone."""
    folder = tmp_path_factory.mktemp("transfer")
    write_people(folder, "target", 0)
    write_people(folder, "source", 50)
    (folder / "supervised.yml").write_text(SUPERVISED)
    (folder / "unsupervised.yml").write_text(UNSUPERVISED)
    cfg = get_cfg()
    cfg.merge_from_file(str(folder / "supervised.yml"))
    torch.manual_seed(7)
    torch.save({"model": build_model(cfg, num_classes=3).state_dict()}, folder / "whole.pth")
    run_tool("tools/convert_checkpoint.py", "--backbone", "whole.pth", "own.pth", cwd=folder)
    return folder


@pytest.fixture
def tool(place, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.chdir(place)
    return importlib.import_module("transfer")


class InProcess:
    """Stands for the process of a run: runs it in this one, which need not import everything again."""

    started: list[list[str]] = []

    def __init__(self, command, output, variables):
        self.words = command[2:]
        InProcess.started.append(self.words)

    def poll(self):
        run_tool("tools/train_net.py", *self.words, cwd=Path.cwd())
        return 0


@pytest.fixture
def in_process(tool, monkeypatch):
    monkeypatch.setattr(side_by_side, "start", InProcess)
    monkeypatch.setattr(InProcess, "started", [])
    return InProcess.started


def command(*settings, output="out", source=True, seeds=1):
    return [
        *("--backbones", "fresh=random", "own=own.pth", "--settings", *settings, "--target", TARGET),
        *(("--source", SOURCE) if source else ()),
        *("--ratios", "0.5", "--seeds", str(seeds), "--config-file", "supervised.yml"),
        *("--unsupervised-config-file", "unsupervised.yml", "--output", output),
        *("DATASETS.ROOT", "."),
    ]


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (["few_shot", "adaptation"], {"few_shot", "adaptation", "generalization"}),
        pytest.param(ALL, set(ALL), marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_settings_give_one_table(asked, given, tool, in_process, capsys):
    output = Path(f"settings{len(asked)}")
    tool.main(command(*asked, output=str(output)))
    assert len(in_process) == 2 * len(given)
    said = capsys.readouterr().out
    table = (output / "results.md").read_text()
    assert table.strip() in said and "gain of own" in table
    found = json.loads((output / "results.json").read_text())
    assert {run["setting"] for run in found["runs"]} == given and found["backbones"]["own"]["sha256"]
    assert len(table.splitlines()) == 2 + len(given) and (output / "ratios.png").stat().st_size > 5000
    by_row = {(row["setting"], row["backbone"]): row["mAP"] for row in found["summary"]}
    gain = by_row["few_shot", "own"]["gain_mean"]
    assert gain == pytest.approx(by_row["few_shot", "own"]["mean"] - by_row["few_shot", "fresh"]["mean"])
    # What the runs trained on and started from.
    assert manifest(output / "few_shot_0.5/own/seed1")["subset"]["images"] == 6 * 2
    one, other = (
        manifest(output / f"few_shot_0.5/{backbone}/seed1")["subset"]["sha256"] for backbone in ("fresh", "own")
    )
    assert one == other
    start = manifest(output / "adaptation/own/seed1")["weights"]["MODEL.WEIGHTS"]
    assert start["path"].endswith("generalization/own/seed1/model_final.pth")
    assert manifest(output / "adaptation/own/seed1")["config"]["MODEL"]["BACKBONE"]["TIMM_NAME"] == "test_vit"
    assert manifest(output / "generalization/own/seed1")["config"]["DATASETS"]["NAMES"] == [SOURCE]
    assert "MODEL.BACKBONE.PRETRAIN_PATH" in manifest(output / "generalization/own/seed1")["weights"]
    # Finished runs are read.
    in_process.clear()
    tool.main(command(*asked, output=str(output)))
    assert in_process == [] and (output / "results.md").read_text() == table


def test_a_seed_can_be_added(tool, in_process):
    tool.main(command("supervised", output="seeds"))
    assert len(in_process) == 2
    tool.main(command("supervised", output="seeds", seeds=2))
    assert [words[words.index("MODEL.SEED") + 1] for words in in_process] == ["1", "1", "2", "2"]


def test_runs_at_once_wait_for_what_they_start_from(tool, in_process, capsys):
    words = command("supervised", "adaptation", output="at_once")
    tool.main([*words[:-2], "--jobs", "9", *words[-2:]])
    folders = [words[words.index("OUTPUT_DIR") + 1].removeprefix("at_once/") for words in in_process]
    assert len(folders) == 6 and folders[:2] == ["supervised/fresh/seed1", "supervised/own/seed1"]
    for backbone in ("fresh", "own"):
        assert folders.index(f"generalization/{backbone}/seed1") < folders.index(f"adaptation/{backbone}/seed1")
    said = capsys.readouterr().out
    assert "[2/6] supervised, own, seed 1: new, at_once/supervised/own/seed1\n" in said
    assert re.search(r"\[6/6\] adaptation, own, seed 1: mAP / Rank-1 \d+\.\d / \d+\.\d %, eta 0:00\n", said)
    # The results are listed in the order of the runs, whichever ended first.
    runs = json.loads(Path("at_once/results.json").read_text())["runs"]
    assert [(run["setting"], run["name"]) for run in runs] == [
        (name, own) for name in ("supervised", "generalization", "adaptation") for own in ("fresh", "own")
    ]


def test_a_dry_run_lists_the_runs(tool, in_process, capsys):
    tool.main([*command("adaptation", output="dry")[:-2], "--dry-run", "DATASETS.ROOT", "."])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("] ")[2].partition(",")[0] for line in lines] == ["generalization"] * 2 + ["adaptation"] * 2
    assert all(": new, dry/" in line for line in lines) and in_process == [] and not Path("dry").exists()


def test_an_unfinished_run_is_resumed(tool, in_process, monkeypatch, capsys):
    words = [*command("supervised", output="halted"), "SOLVER.MAX_EPOCH", "3", "SOLVER.CHECKPOINT_PERIOD", "1"]
    ended = InProcess.poll

    def halt(self):  # as if the process was killed after it had written the checkpoint of an epoch
        ended(self)
        folder = Path(self.words[self.words.index("OUTPUT_DIR") + 1])
        for name in ("model_final.pth", "results.json", "last_evaluation.json"):
            (folder / name).unlink()
        (folder / "last_checkpoint").write_text("model_0001.pth")
        return 137

    monkeypatch.setattr(InProcess, "poll", halt)
    with pytest.raises(SystemExit, match="2 of 2 runs failed .supervised, fresh, seed 1; .*tries them again"):
        tool.main(words)
    assert "the run supervised, fresh, seed 1 ended with status 137, and the same comm" in capsys.readouterr().err
    monkeypatch.setattr(InProcess, "poll", ended)
    tool.main(words)
    assert "supervised, fresh, seed 1: unfinished" in capsys.readouterr().out
    sessions = json.loads(Path("halted/supervised/fresh/seed1/manifest.json").read_text())["sessions"]
    assert [session["first_iteration"] for session in sessions] == [0, 4]


def test_a_run_that_fails_does_not_keep_the_others(tool, in_process, monkeypatch, capsys):
    ended = InProcess.poll
    monkeypatch.setattr(InProcess, "poll", lambda self: 1 if "generalization/own" in str(self.words) else ended(self))
    with pytest.raises(SystemExit, match=r"2 of 4 runs failed \(generalization, own, seed 1; adaptation, own, seed 1"):
        tool.main(command("adaptation", output="failing"))
    said = capsys.readouterr()
    assert "the run adaptation, own, seed 1 cannot start: the run that it starts from has failed" in said.err
    assert "| –" in said.out and Path("failing/adaptation/fresh/seed1/results.json").exists()


def test_another_comparison_in_the_same_folder_is_refused(tool, in_process, place):
    tool.main(command("supervised", output="mine"))
    with pytest.raises(SystemExit, match=r"another comparison \(SOLVER.BASE_LR was 0.0003\): give another --output"):
        tool.main([*command("supervised", output="mine"), "SOLVER.BASE_LR", "0.1"])
    tool.main([*command("supervised", output="mine"), "DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu"])
    before = (place / "own.pth").read_bytes()
    state = {name: value + 1 for name, value in read_checkpoint("own.pth")["model"].items()}
    torch.save(state, "own.pth")
    try:
        with pytest.raises(SystemExit, match="its backbone was another file"):
            tool.main(command("supervised", output="mine"))
    finally:
        (place / "own.pth").write_bytes(before)


CUT, NO_RUN, NO_CONFIG = "is not JSON that can be read", "is no record of a run", "does not have config and backbone"
NO_FIGURES = "does not have mAP and Rank-1 of one data set"


def test_a_damaged_file_of_a_run_is_named_before_the_first_run(tool, in_process):
    tool.main(command("supervised", output="damaged"))
    in_process.clear()
    folder = Path("damaged/supervised/own/seed1")
    figures = {"mAP": 1.0, "Rank-1": 2.0}
    for name, content, said in (
        *(("transfer.json", text, CUT) for text in ("", '{"config": {')),
        *(("transfer.json", json.dumps(found), NO_RUN) for found in ([], 3, None)),
        *(("transfer.json", json.dumps(found), NO_CONFIG) for found in ({}, {"config": []})),
        ("transfer.json", json.dumps({"config": [], "backbone": None}), NO_CONFIG),
        *(("results.json", text, CUT) for text in ("", "{", "[" * 100_000)),
        *(("results.json", json.dumps(found), NO_RUN) for found in ([], 3)),
        *(("results.json", json.dumps(found), NO_FIGURES) for found in ({}, {"a": []}, {"a": figures, "b": figures})),
        *(("results.json", json.dumps({"a": figures | {"mAP": value}}), NO_FIGURES) for value in (None, "1", [], True)),
    ):
        before = (folder / name).read_bytes()
        (folder / name).write_text(content)
        with pytest.raises(SystemExit, match=f"{folder}/{name} .*{said}.*: delete the folder {folder} to repeat"):
            tool.main([*command("supervised", output="damaged")[:-2], "--dry-run", "DATASETS.ROOT", "."])
        (folder / name).write_bytes(before)
    assert in_process == []


def test_a_folder_that_another_process_writes_to_is_refused(tool, in_process):
    with locked_by_another(Path("locked")):
        with pytest.raises(SystemExit, match="locked is in use by"):
            tool.main(command("supervised", output="locked"))
        tool.main([*command("supervised", output="locked")[:-2], "--dry-run", "DATASETS.ROOT", "."])
    assert in_process == [] and list(Path("locked").iterdir()) == []


def test_the_folder_is_locked_while_runs_are_trained(tool, monkeypatch):
    locked = []

    def start(one, running):
        with pytest.raises(BlockingIOError), locked_by_another(Path("while")):
            pass
        locked.append(one.run.backbone)
        raise tool.UserError("stopped")

    monkeypatch.setattr(tool, "start", start)
    Path("while").mkdir()
    Path("while", NAME).write_text("{}")  # of a process that was killed
    with pytest.raises(SystemExit, match="2 of 2 runs failed"):
        tool.main(command("supervised", output="while"))
    assert locked == ["fresh", "own"] and not Path("while", NAME).exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"own=own.pth": "own=nowhere.pth"}, "--backbones own: there is no file nowhere.pth; own=random is random"),
        ({"fresh=random": "own=random"}, "two backbones have the same name: own, own"),
        ({"supervised": "supervise"}, "unknown setting 'supervise'; did you mean 'supervised'"),
        ({TARGET: "Market150"}, "unknown dataset.*'Market150'; did you mean 'Market1501'"),
        ({"DATASETS.ROOT": "DATASETS.ROOTS"}, "DATASETS.ROOTS"),
        ({"DATASETS.ROOT": "DATASETS.TESTS"}, "DATASETS.TESTS is set by the comparison itself"),
        ({"own=own.pth": "own=whole.png"}, "there is no file whole.png"),
        ({"own=own.pth": "own=."}, "--backbones own: . is a folder, no file"),
        ({"fresh=random": "OWN=random"}, "OWN, own differ in case only"),
        ({"own=own.pth": "own=none"}, "two of fresh, own are the same weights"),
        ({TARGET: "csv:untested.csv"}, "--target csv:untested.csv has no query images: nothing can be tested on it"),
        ({"supervised": "small_scale", "0.5": "0.001"}, "DATASETS.SUBSET"),
        ({"1": "1 --jobs 0"}, "--jobs is the number of runs that are trained at once, 1 or more, got 0"),
        ({"1": "1 --num-gpus 0"}, "--num-gpus is the number of processes of each run, 1 or more, got 0"),
        ({"wrong": "own.pth"}, "--output own.pth is a file: name a folder"),
        ({"--source": "--source csv:source.csv"}, "--source has the same data set twice"),
    ],
)
def test_what_is_wrong_is_found_before_the_first_run(tool, in_process, change, said):
    table = Path("target.csv").read_text().splitlines()
    Path("untested.csv").write_text("\n".join(line for line in table if not line.endswith(("query", "gallery"))))
    words = " ".join(change.get(word, word) for word in command("supervised", output="wrong")).split()
    with pytest.raises((SystemExit, KeyError), match=said):
        tool.main(words)
    assert in_process == [] and not Path("wrong").exists()


def test_a_file_of_another_network_is_found_before_the_first_run(tool, in_process):
    torch.save({"conv1.weight": torch.ones(1)}, "other.pth")
    words = [word.replace("own=own.pth", "own=other.pth") for word in command("supervised", output="wrong")]
    with pytest.raises(SystemExit, match="only 0.0% of the backbone would be pretrained"):
        tool.main(words)
    assert in_process == []


def test_pairs_begin_with_the_first_key(tool):
    words = ["--source", "CARGO", "--ratios", "0.1", "SOLVER.MAX_EPOCH", "3", "OUTPUT_DIR", "x"]
    assert tool.split_words(words) == (words[:4], words[4:])
    with pytest.raises(tool.UserError, match="SOLVER.BASE_LR has no value"):
        tool.split_words(["SOLVER.MAX_EPOCH", "3", "SOLVER.BASE_LR"])


@pytest.mark.slow
def test_ctrl_c_saves_the_runs_and_the_same_command_goes_on(place):
    keys = {"MAX_EPOCH": 12, "ITERS_PER_EPOCH": 20, "CHECKPOINT_PERIOD": 1}
    words = [warm_python(), str(ROOT / "tools/transfer.py"), *command("supervised", output="stopped")[:-2]]
    words += ["--jobs", "2", "DATASETS.ROOT", ".", "TEST.EVAL_PERIOD", "0"]
    words += [word for key, value in keys.items() for word in (f"SOLVER.{key}", str(value))]
    process = subprocess.Popen(words, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    folders = [place / f"stopped/supervised/{name}/seed1" for name in ("fresh", "own")]
    wait_for(lambda: all(list(folder.glob("model_0*.pth")) for folder in folders))
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 130, said
    assert "transfer: stopped; the same command goes on" in said
    assert all((folder / "model_interrupted.pth").exists() for folder in folders)
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "gain of own" in done.stdout, done.stderr
    assert all(len(manifest(folder)["sessions"]) == 2 for folder in folders)


def wait_for(happened, seconds=120):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)
