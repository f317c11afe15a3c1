"""The tool refuses test people and descriptors without weights; docs/sd_reid.md has a command that runs."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastreid.config import ConfigError
from fastreid.engine.fingerprints import split_fingerprint
from fastreid.structures import PersonImage
from fastreid.utils.manifest import FORMAT, TRAINING, write_manifest

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
