"""What users' files, disks and machines cause ends in one sentence at the tools: the given cases, as from a shell."""

import os
import subprocess

import pytest
import torch

from tests.miniature import ROOT, run_tool
from tests.warm_python import warm_python

TRAIN = "tools/train_net.py"


def refused(folder, *words, said):
    with pytest.raises(SystemExit, match=rf"^train_net: error: {said}"):
        run_tool(TRAIN, *words, cwd=folder)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["DATALOADER.NUM_WORKERS", "-2"], "DATALOADER.NUM_WORKERS must be from 0"),
        (["TEST.IMS_PER_BATCH", "0"], "TEST.IMS_PER_BATCH must be 1 or more, got 0"),
        (["MODEL.PIXEL_MEAN", "[1, 2]"], "MODEL.PIXEL_MEAN must be three numbers"),
        (["DATASETS.NAMES", "(1501,)"], r"DATASETS.NAMES must be a list of names, .*got \[1501\]; quote"),
        (["MODEL.WEIGHTS", "5"], "MODEL.WEIGHTS in the command line must be of type str.*quote"),
        (["OUTPUT_DIR", "people.csv"], "OUTPUT_DIR: people.csv is a file, where a folder"),
        (["OUTPUT_DIR", "people.csv/x"], "OUTPUT_DIR: .* has a file where a folder is wanted"),
        (["OUTPUT_DIR", "/proc/x"], "OUTPUT_DIR: there is no /proc/x"),
        (["OUTPUT_DIR", "x" * 5000], "OUTPUT_DIR: .* is longer than the file system takes"),
        (["MODEL.BACKBONE.TIMM_NAME", "no_such"], "MODEL.BACKBONE.TIMM_NAME 'no_such' is none of timm's"),
    ],
)
def test_keys(people, keys, said):
    refused(people, "--dry-run", "--config-file", "config.yml", *keys, said=said)


def test_nothing_is_made_for_a_config_that_is_refused(people, tmp_path):
    keys = ["OUTPUT_DIR", str(tmp_path / "new"), "TEST.IMS_PER_BATCH", "0"]
    refused(people, "--config-file", "config.yml", *keys, said="TEST.IMS_PER_BATCH")
    assert not (tmp_path / "new").exists()


def test_weights_that_are_nan(people, tmp_path):
    content = torch.load(people / "out" / "model_final.pth", weights_only=True)
    state = {
        name: value * torch.nan if value.is_floating_point() else value for name, value in content["model"].items()
    }
    torch.save({"model": state}, tmp_path / "nan.pth")
    words = ["--eval-only", "--config-file", "config.yml", "MODEL.WEIGHTS", str(tmp_path / "nan.pth")]
    said = r"the descriptor of image .*\.png is not finite \(\d+ of \d+ .* are not\).*does MODEL.WEIGHTS hold NaN"
    refused(people, *words, "OUTPUT_DIR", str(tmp_path / "out"), said=said)


def test_the_home_folder(people, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run_tool(TRAIN, "--dry-run", "--config-file", "config.yml", "OUTPUT_DIR", "~/x", cwd=people)
    assert (tmp_path / "x" / "config.yaml").exists() and not (people / "~").exists()
    with pytest.raises(SystemExit, match="cannot read image ~|no file|lacks|cannot be used|there is no"):
        run_tool("tools/evaluate_features.py", "--query=~/q.npz", "--gallery=~/g.npz", cwd=people)


def shell(line, folder, **environment):
    paths = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PY": warm_python(), "T": str(ROOT / "tools")}
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, env=os.environ | paths | environment, timeout=300
    )


@pytest.mark.slow
def test_in_processes_of_their_own(people, tmp_path):
    """An error in one of two processes, few files, no locale, and a reader that goes away."""
    start = '"$PY" "$T/train_net.py" --config-file config.yml'
    train = f"{start} OUTPUT_DIR {tmp_path}/o"
    done = shell(f"{start} --num-gpus 2 OUTPUT_DIR {tmp_path}/two MODEL.HEADS.POOL_LAYER Nothing", people)
    # Python may warn, after the sentence, of a lock of the other process, which was ended while it had one.
    lines = [line for line in done.stderr.decode().splitlines() if "resource_tracker" not in line]
    assert done.returncode == 1 and lines[-1].startswith("train_net: error: unknown pooling"), done.stderr
    assert "Traceback" not in done.stderr.decode()
    done = shell(f"ulimit -n 16; {train} DATALOADER.NUM_WORKERS 2", people)
    assert b"Traceback" not in done.stderr and (done.returncode == 0 or b"too many open files" in done.stderr)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}
    done = shell(train, people, **ascii_only)
    assert done.returncode == 0 and done.stderr == b"", done.stderr
    done = shell('"$PY" "$T/train_net.py" --help | head -1; exit ${PIPESTATUS[0]}', people)
    assert done.returncode in (0, 141) and b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
