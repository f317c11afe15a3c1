"""Every stage can be killed at any moment: started again, it ends with the same files as without kills."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from fastreid.methods.diffusion_reid.generator import DiffusionReID
from fastreid.utils.checkpoint import read_checkpoint
from tests.methods.diffusion_reid.conftest import factory_keys
from tests.miniature import ROOT
from tests.warm_python import warm_python

KEYS = [
    *("DIFFPERSON.GEN.STEPS", "2", "DIFFPERSON.GEN.PER_ID", "5", "DIFFPERSON.GEN.BATCH", "2"),
    *("DIFFPERSON.DI.ARS_SIZE", "6", "DIFFPERSON.DI.FOLDER", "", "DIFFPERSON.LPE.BATCH", "1"),
    *("DIFFPERSON.FILTER.NAMES", "['blur', 'near_copy']", "DIFFPERSON.FILTER.MAX_CORRELATION", "0.5"),
]
# Files that name the moment or the process; cards have the date.
_OTHERS = {"card.html", "card.md"}
_LEFT = (".lock", ".tmp")  # of processes that were killed; later starts remove them


def files(folder: Path) -> dict[str, str]:
    """Checksums of the files of a folder, except those that killed processes leave, and those with a date."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(_LEFT) and path.name not in _OTHERS:
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def run(stage, kills, longest, words):
    command = [warm_python(), str(ROOT / "tests/generation/kills.py"), stage, str(kills), "3", str(longest), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


@pytest.mark.slow
def test_killed_stages_end_with_the_same_files(make_cfg, place, assets, tmp_path):
    keys = factory_keys(place, assets)
    torch.manual_seed(4)
    state = DiffusionReID(make_cfg()).checkpoint_state_dict()
    for name in ("whole", "killed"):
        (tmp_path / name / "train").mkdir(parents=True)
        torch.save({"model": state}, tmp_path / name / "train/model_final.pth")
    shutil.copy(tmp_path / "whole/train/model_final.pth", tmp_path / "killed/train/model_final.pth")
    killed = 0
    keys = [*keys, *KEYS[:-4], "DIFFPERSON.FILTER.NAMES", "['sharper_half']"]
    keys += ["DIFFPERSON.FILTER.MIN_KEEP", "7", "DIFFPERSON.FILTER.MAX_ROUNDS", "3"]
    longest = {"caption": 0.1, "reference": 1.5, "generate": 2.0, "filter": 0.3, "top-up": 3.0, "export": 0.5}
    for stage, seconds in longest.items():
        for name, kills in (("whole", 0), ("killed", 10)):
            done = run(stage, kills, seconds, [*keys, "OUTPUT_DIR", str(tmp_path / name)])
            assert done.returncode == 0, done.stdout + done.stderr
        killed += int(done.stdout.split("killed ")[-1])
        own = {"caption": ["captions"], "generate": ["pictures"], "top-up": ["pictures", "filter"]}
        for folder in own.get(stage, ["DiffPerson" if stage == "export" else stage]):
            found, expected = (files(tmp_path / name / folder) for name in ("killed", "whole"))
            assert found == expected and expected
    rows = (tmp_path / "whole/pictures/manifest-1of1.jsonl").read_text().splitlines()
    assert len(rows) > 3 * 5  # more than one round
    assert killed > 20  # else they ended before they were killed


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["shared", "per_id"])
def test_a_killed_training_ends_with_the_same_weights(place, assets, tmp_path, granularity):
    keys = [
        *factory_keys(place, assets), "DIFFPERSON.GRANULARITY", granularity, "DIFFPERSON.LPE.CAPTIONER", "none",
        "SOLVER.MAX_EPOCH", "3", "SOLVER.ITERS_PER_EPOCH", "2", "SOLVER.CHECKPOINT_PERIOD", "1",
        "SOLVER.WARMUP_ITERS", "0", "SOLVER.IMS_PER_BATCH", "2", "DIFFPERSON.GEN.STEPS", "1",
    ]  # fmt: skip
    for name, kills in (("whole", 0), ("killed", 10)):
        done = run("train", kills, 1.6, [*keys, "OUTPUT_DIR", str(tmp_path / name)])
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert int(done.stdout.split("killed ")[-1]) > 3
    paths = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("model_final.pth"))
    assert len(paths) == (3 if granularity == "per_id" else 1)
    for path in paths:
        whole, killed = (read_checkpoint(tmp_path / name / path)["model"] for name in ("whole", "killed"))
        assert whole.keys() == killed.keys() and all(torch.equal(whole[key], killed[key]) for key in whole)
        sheets = [(tmp_path / name / path.parent / "sheet.jpg").read_bytes() for name in ("whole", "killed")]
        assert sheets[0] == sheets[1]


@pytest.mark.slow
def test_shards_that_run_at_the_same_time_write_what_one_process_writes(make_cfg, place, assets, tmp_path):
    torch.manual_seed(4)
    state = DiffusionReID(make_cfg()).checkpoint_state_dict()
    for name in ("whole", "parts"):
        (tmp_path / name / "train").mkdir(parents=True)
        torch.save({"model": state}, tmp_path / name / "train/model_final.pth")

    def start(stage, name, *options):
        words = [*options, *factory_keys(place, assets), *KEYS, "OUTPUT_DIR", str(tmp_path / name)]
        command = [warm_python(), str(ROOT / "tools/diffperson.py"), stage, *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    for stage, folder in (
        ("caption", "captions"),
        ("generate", "pictures"),
        ("filter", "filter"),
        ("export", "DiffPerson"),
    ):
        runs = [start(stage, "whole"), *(start(stage, "parts", f"--shard={i}/3") for i in (1, 2, 3))]
        for run_ in runs:
            said, _ = run_.communicate(timeout=300)
            assert run_.returncode == 0, said
        found, expected = (files(tmp_path / name / folder) for name in ("parts", "whole"))
        same = {name for name in expected if not name.startswith("manifest-") and name != "sheet.jpg"}
        assert {name: found[name] for name in same} == {name: expected[name] for name in same} and len(same) > 1
