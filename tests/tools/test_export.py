"""tools/export.py, and the program of docs/export.md."""

import importlib.util
import shutil

import numpy as np
import pytest
import torch

from fastreid.encoder import Predictor
from fastreid.modeling import build_model
from fastreid.modeling.trained import config_text
from fastreid.utils.checkpoint import CONFIG_TEXT
from tests.miniature import ROOT, run_tool
from tests.modeling import toys
from tests.pages import TEXTS, blocks

TOOL = "tools/export.py"


def predictor_of(people):
    """The predictor of the tiny run."""
    return Predictor(people / "out/model_final.pth", device="cpu")


def test_the_programs_of_the_page_compute_the_features_of_evaluation(people, tmp_path, monkeypatch):
    run = tmp_path / "logs/quickstart/stage1"
    shutil.copytree(people / "out", run)
    for name, source in (("a.jpg", "query_0_0.png"), ("b.jpg", "gallery_1_2.png")):
        shutil.copy(people / source, tmp_path / name)  # lossless, whatever the name
    monkeypatch.chdir(tmp_path)
    first, second = (
        line.split()[2:] for line in blocks(TEXTS["docs/export.md"], "bash")[0].splitlines() if "stage1" in line
    )
    for words in (first, second):
        said = run_tool(TOOL, *words, cwd=tmp_path)
        assert "batches of 1, 2 and 5 images: greatest difference" in said
    of_onnx, of_torch = blocks(TEXTS["docs/export.md"], "python")
    names: dict = {}
    exec(of_onnx, names)
    expected = predictor_of(people).embed(["a.jpg", "b.jpg"])
    np.testing.assert_allclose(names["features"], expected.numpy(), atol=1e-5)
    assert names["similarity"] == pytest.approx((expected[0] @ expected[1]).item(), abs=1e-5)
    exec(of_torch, names)
    expected = predictor_of(people).embed(names["images"])
    torch.testing.assert_close(names["features"], expected, atol=1e-5, rtol=1e-4)


def test_the_default_name_is_that_of_the_checkpoint_and_a_file_is_replaced(people, tmp_path):
    shutil.copytree(people / "out", tmp_path / "out")
    (tmp_path / "out/model_final.pt2").write_bytes(b"earlier")
    said = run_tool(TOOL, "out/model_final.pth", "--format", "torch", "--no-normalize", cwd=tmp_path)
    assert "out/model_final.pt2: " in said
    program = torch.export.load(tmp_path / "out/model_final.pt2").module()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    expected = predictor_of(people).embed(images, normalize=False)
    torch.testing.assert_close(program(images=images), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "onx"], "unknown format 'onx'; did you mean 'onnx'"),
        (["--format", "torch", "--output", "m.onnx"], "must have a name that ends with .pt2"),
        (["--format", "torch", "--tolerance", "0"], "the tolerance must be a number above 0"),
        (["--format", "torch", "--preprocess", "grpah"], "did you mean 'graph'"),
        (["--format", "torch", "MODEL.HEADS.NORM", "GN"], "MODEL.HEADS.NORM has no effect on an exported file: only"),
        (["--format", "torch", "TEST.SDMODEL.MICRO_BATCH", "2"], "MICRO_BATCH has no effect"),
        (["--format", "torch", "TEST.FLIP.ENABLED"], "options come in pairs"),
        (["--format", "torch", "--import", "nowhere.py"], "no file .*nowhere.py"),
    ],
)
def test_bad_input_is_explained(people, tmp_path, words, message):
    shutil.copytree(people / "out", tmp_path / "out")
    before = sorted((tmp_path / "out").iterdir())
    with pytest.raises(SystemExit, match=f"^export: error: .*{message}"):
        run_tool(TOOL, "out/model_final.pth", *words, cwd=tmp_path)
    assert sorted(path for path in (tmp_path / "out").iterdir() if path.suffix != ".lock") == before


def test_a_graph_that_computes_something_else_is_not_written(people, tmp_path, monkeypatch):
    shutil.copytree(people / "out", tmp_path / "out")
    module = importlib.import_module("fastreid.export.export")
    right = module._features
    monkeypatch.setattr(module, "_features", lambda run, batch: right(run, batch) + 0.01)
    before = sorted((tmp_path / "out").iterdir())
    with pytest.raises(SystemExit, match="^export: error: .*does not compute what the model does"):
        run_tool(TOOL, "out/model_final.pth", "--format", "torch", cwd=tmp_path)
    assert sorted(path for path in (tmp_path / "out").iterdir() if path.suffix != ".lock") == before


def test_a_missing_checkpoint_is_explained(tmp_path):
    with pytest.raises(SystemExit, match="export: error: nowhere.pth: there is no such checkpoint"):
        run_tool(TOOL, "nowhere.pth", "--format", "torch", cwd=tmp_path)


def test_keys_change_what_is_computed(people, tmp_path):
    shutil.copytree(people / "out", tmp_path / "out")
    run_tool(TOOL, "out/model_final.pth", "--format", "torch", "TEST.FLIP.ENABLED", "True", cwd=tmp_path)
    program = torch.export.load(tmp_path / "out/model_final.pt2").module()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(program(images=images), program(images=images.flip(-1)), atol=1e-6, rtol=1e-4)


def test_assets_may_be_in_another_folder_than_in_training(tmp_path):
    cfg = toys.stage2_cfg(toys.write_assets(tmp_path / "there"), "MODEL.HEADS.NUM_CLASSES", 3)
    content = {"model": build_model(cfg).state_dict(), CONFIG_TEXT: config_text(cfg)}
    torch.save(content, tmp_path / "model.pth")
    (tmp_path / "there").rename(tmp_path / "here")
    spec = importlib.util.spec_from_file_location("export_tool", ROOT / TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    unet, scheduler = (f"MODEL.SDMODEL.{part}_CONFIG.PRETRAINED_PATH" for part in ("UNET", "SCHEDULER"))
    keys = [unet, str(tmp_path / "here/unet"), scheduler, str(tmp_path / "here/scheduler")]
    model, _ = tool._load(tmp_path / "model.pth", keys)
    assert model.state_dict().keys() == content["model"].keys()
