"""The code of docs/trackers.md runs as it is."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid import Predictor
from tests.pages import TEXTS, blocks

BOT_SORT, STRONG_SORT, PLAIN = blocks(TEXTS["docs/trackers.md"], "python")


@pytest.fixture
def folder(client, tmp_path, monkeypatch):
    """The folder of a sequence, with a checkpoint and its config."""
    shutil.copy(client / "model.pth", tmp_path / "model_final.pth")
    for name in ("config.yml", "config.yaml"):  # the name that fast-reid's users have, and that of a run
        shutil.copy(client / "config.yml", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_bot_sort_gets_a_feature_for_each_box(folder):
    scope = {}
    exec(BOT_SORT, scope)
    encoder = scope["FastReIDInterface"]("config.yml", "model_final.pth", "cpu")
    frame = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    boxes = np.array([[2.0, 2, 20, 50], [30, 5, 60, 64]])
    features = encoder.inference(frame, boxes)
    assert features.shape == (2, 16) and features.dtype == np.float32
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    assert encoder.inference(frame, []).shape == encoder.inference(frame, np.empty((0, 6))).shape == (0, 16)
    detections = np.hstack([boxes, [[0.9, 0], [0.8, 0]]])  # with score and class
    assert np.array_equal(encoder.inference(frame, detections), features)


def test_strong_sort_gets_a_file_of_a_sequence(folder):
    for name in ("img1", "det"):
        (folder / name).mkdir()
    for number in (1, 2):
        Image.effect_noise((80, 64), 60).convert("RGB").save(folder / f"img1/{number:06}.jpg")
    (folder / "det/det.txt").write_text("1,-1,2,2,18,48,0.9\n2,-1,30,5,30,59,0.8\n1,-1,40,4,20,50,0.7\n")
    exec(STRONG_SORT, {})
    rows = np.load("MOT17-02-FRCNN.npy")
    assert rows.shape == (3, 26) and rows[:, 0].tolist() == [1, 1, 2] and (rows[:, 7:10] == -1).all()
    expected = Predictor("model_final.pth").embed("img1/000002.jpg", [[30, 5, 60, 64]])
    assert np.allclose(rows[2, 10:], expected[0].numpy())


def test_the_calls_of_fast_reid_run(folder):
    scope = {"patches": torch.rand(2, 3, 64, 32) * 255}
    exec(PLAIN, scope)
    assert scope["features"].shape == (2, 16)
