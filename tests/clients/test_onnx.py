"""The export of fast-reid's deployment tool: a model of tensors, traced by torch.onnx."""

import numpy as np
import pytest
import torch

from fastreid.modeling.meta_arch import build_model
from fastreid.utils.checkpoint import Checkpointer

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def test_a_model_is_exported_to_onnx(cfg, tmp_path):
    cfg.defrost()
    cfg.MODEL.BACKBONE.PRETRAIN = False
    if cfg.MODEL.HEADS.POOL_LAYER == "FastGlobalAvgPool":
        cfg.MODEL.HEADS.POOL_LAYER = "GlobalAvgPool"
    model = build_model(cfg)
    Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    if hasattr(model.backbone, "deploy"):
        model.backbone.deploy(True)
    model.eval()
    inputs = torch.rand(2, 3, *cfg.INPUT.SIZE_TEST).to(model.device) * 255
    path = str(tmp_path / "baseline.onnx")
    with torch.no_grad():
        torch.onnx.export(model, (inputs,), path, input_names=["images"], output_names=["features"], dynamo=False)
        expected = model(inputs).numpy()
    (found,) = onnxruntime.InferenceSession(path).run(None, {"images": inputs.numpy()})
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-4)
