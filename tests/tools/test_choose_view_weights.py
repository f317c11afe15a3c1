"""The tool refuses test people and descriptors without weights; docs/sd_reid.md has a command that runs."""

import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastreid.config import ConfigError, with_values
from fastreid.engine.fingerprints import split_fingerprint
from fastreid.structures import PersonImage
from fastreid.utils.manifest import FORMAT, TRAINING, write_manifest
from fastreid.utils.precision import set_float32_precision
from tests.modeling import toys
from tests.modeling.conftest import assets, make_stage2

__all__ = ["assets", "make_stage2"]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("choose_view_weights", ROOT / "tools/choose_view_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_people_on_whom_the_run_reports_its_figures_are_refused(tool, tmp_path):
    query = [PersonImage(f"/data/query/{person}.jpg", person, 0) for person in range(3)]
    datasets = {"CARGO": {"query": split_fingerprint(query)}}
    write_manifest(tmp_path / TRAINING, {"format": FORMAT, "datasets": datasets, "sessions": []})
    cfg = SimpleNamespace(MODEL=SimpleNamespace(WEIGHTS=str(tmp_path / "model_final.pth")))
    with pytest.raises(ConfigError, match="the queries of CARGO_AG .* are test people of the run"):
        tool._refuse_test_people(cfg, [SimpleNamespace(name="CARGO_AG", query=query)])
    tool._refuse_test_people(cfg, [SimpleNamespace(name="CARGO_AG", query=query[:2])])
    (tmp_path / TRAINING).unlink()
    tool._refuse_test_people(cfg, [SimpleNamespace(name="CARGO_AG", query=query)])


@pytest.mark.parametrize("options", [["TEST.SDMODEL.PARTS", "('person',)"], ["TEST.SDMODEL.FUSION", "concat"]])
def test_a_descriptor_without_weights_is_refused(tool, tmp_path, options):
    config = str(ROOT / "configs/quickstart/stage2.yml")
    with pytest.raises(SystemExit) as stopped:
        tool.main(["--config-file", config, "--output", str(tmp_path / "out.yml"), *options])
    assert 'must be "weighted"' in str(stopped.value) and not (tmp_path / "out.yml").exists()


def test_user_defined_files_and_the_precision_of_the_config_count(tool, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'seen')!r}, 'w').close()")
    monkeypatch.setattr(tool, "_choose", lambda cfg, output: None)
    words = ["MODEL.FLOAT32", "tf32", "IMPORTS", f"['{tmp_path}/mine.py']"]
    try:
        tool.main(["--config-file", str(ROOT / "configs/quickstart/stage2.yml"), "--output", "out.yml", *words])
        assert torch.backends.cuda.matmul.allow_tf32 and (tmp_path / "seen").exists()
    finally:
        set_float32_precision("ieee")


def test_images_that_are_skipped_are_left_out(tool, assets, make_stage2, people, tmp_path, monkeypatch):
    shutil.copytree(people, tmp_path / "people")
    (tmp_path / "people/gallery_0_1.png").write_text("no image")
    monkeypatch.setattr(tool, "build_for_evaluation", lambda cfg: make_stage2().eval())
    cfg = toys.stage2_cfg(assets)
    tested = {"DATASETS.TESTS": [f"csv:{tmp_path}/people/people.csv"], "DATALOADER.BAD_IMAGES": "skip"}
    fused = {"TEST.SDMODEL.FUSION": "weighted", "TEST.SDMODEL.PARTS": ["person", "generated"]}
    tool._choose(with_values(cfg, {**tested, **fused, "DATALOADER.NUM_WORKERS": 0}), tmp_path / "out.yml")
    assert "VIEW_WEIGHTS" in (tmp_path / "out.yml").read_text()
