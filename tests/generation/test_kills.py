"""Every stage can be killed at any moment: started again, it ends with the same files as without kills."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastreid.methods.diffusion_reid.generator import DiffusionReID
from tests.methods.diffusion_reid.conftest import factory_keys
from tests.miniature import ROOT

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
    command = [sys.executable, str(ROOT / "tests/generation/kills.py"), stage, str(kills), "3", str(longest), *words]
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
    longest = {"caption": 0.1, "reference": 1.5, "generate": 2.0, "filter": 0.3, "export": 0.5}
    for stage, seconds in longest.items():
        for name, kills in (("whole", 0), ("killed", 10)):
            done = run(stage, kills, seconds, [*keys, *KEYS, "OUTPUT_DIR", str(tmp_path / name)])
            assert done.returncode == 0, done.stdout + done.stderr
        killed += int(done.stdout.split("killed ")[-1])
        folder = {"generate": "pictures", "caption": "captions", "export": "DiffPerson"}.get(stage, stage)
        found, expected = (files(tmp_path / name / folder) for name in ("killed", "whole"))
        assert found == expected and expected
    assert killed > 20  # else they ended before they were killed


@pytest.mark.slow
def test_shards_that_run_at_the_same_time_write_what_one_process_writes(make_cfg, place, assets, tmp_path):
    torch.manual_seed(4)
    state = DiffusionReID(make_cfg()).checkpoint_state_dict()
    for name in ("whole", "parts"):
        (tmp_path / name / "train").mkdir(parents=True)
        torch.save({"model": state}, tmp_path / name / "train/model_final.pth")

    def start(stage, name, *options):
        words = [*options, *factory_keys(place, assets), *KEYS, "OUTPUT_DIR", str(tmp_path / name)]
        command = [sys.executable, str(ROOT / "tools/diffperson.py"), stage, *words]
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
