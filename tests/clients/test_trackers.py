"""The embedding interfaces of trackers: a model that gets tensors, and a predictor."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fastreid.config import get_cfg
from fastreid.engine import DefaultPredictor
from fastreid.modeling.meta_arch import build_model
from fastreid.utils.checkpoint import Checkpointer, WeightsError
from fastreid.utils.errors import ArgumentError
from fastreid.utils.file_io import PathManager
from fastreid.utils.logger import setup_logger

BOXES = np.array([[2, 2, 20, 50], [30.4, 5, 60, 64], [-3, 10, 40, 80]])


@pytest.fixture
def frame():
    """A frame as OpenCV reads it: uint8 [H, W, 3], blue first."""
    return np.random.default_rng(1).integers(0, 255, (64, 80, 3), dtype=np.uint8)


class Encoder:
    """As trackers of the family of BoT-SORT embed the boxes of a frame."""

    def __init__(self, config_file, weights_path, device, batch_size=2, dtype=torch.float32):
        setup_logger(name="fastreid", color=False)
        self.cfg = get_cfg()
        self.cfg.merge_from_file(config_file)
        self.cfg.merge_from_list(["MODEL.WEIGHTS", weights_path, "MODEL.DEVICE", device])
        self.cfg.MODEL.BACKBONE.PRETRAIN = False
        self.cfg.freeze()
        self.batch_size, self.dtype = batch_size, dtype
        self.model = build_model(self.cfg)
        self.model.eval()
        if PathManager.isfile(weights_path):
            Checkpointer(self.model).load(weights_path)
        self.model = self.model.eval().to(device=device).to(dtype)  # BoT-SORT calls half() on a GPU
        self.height, self.width = self.cfg.INPUT.SIZE_TEST

    def inference(self, image, detections):
        """Unit features [N, D] of boxes x1, y1, x2, y2 of a frame."""
        if detections is None or not np.size(detections):
            return []
        crops = []
        for x1, y1, x2, y2 in detections.round().astype(int):
            crop = image[max(y1, 0) : y2, max(x1, 0) : x2, ::-1]  # RGB
            crop = np.asarray(Image.fromarray(crop).resize((self.width, self.height)))
            crops.append(torch.as_tensor(crop.astype("float32").transpose(2, 0, 1)))
        features = []
        for start in range(0, len(crops), self.batch_size):
            patches = torch.stack(crops[start : start + self.batch_size]).to(self.dtype)
            untouched = torch.clone(patches)
            pred = self.model(patches)
            assert torch.equal(patches, untouched)  # trackers embed a batch again where a feature is NaN
            pred[torch.isinf(pred)] = 1.0
            features.append(F.normalize(pred).cpu().data.numpy())
        return np.concatenate(features)


def test_a_tracker_embeds_the_boxes_of_a_frame(client, frame):
    encoder = Encoder(str(client / "config.yml"), str(client / "model.pth"), "cpu")
    features = encoder.inference(frame, BOXES)
    assert features.shape == (3, 16) and np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    assert np.allclose(encoder.inference(frame, BOXES[1:2]), features[1:2], atol=1e-5)
    assert encoder.inference(frame, np.empty((0, 4))) == []


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.float64])
def test_a_model_in_another_type(client, frame, dtype):
    paths = str(client / "config.yml"), str(client / "model.pth"), "cpu"
    expected = Encoder(*paths).inference(frame, BOXES)
    assert np.allclose(Encoder(*paths, dtype=dtype).inference(frame, BOXES), expected, atol=0.05)


def test_a_checkpoint_of_another_network_is_no_feature_extractor(client, tmp_path):
    cfg = get_cfg()
    cfg.merge_from_file(str(client / "config.yml"))
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", "build_osnet_backbone", "MODEL.BACKBONE.DEPTH", "x0_25"])
    cfg.MODEL.BACKBONE.FEAT_DIM = 2048
    Checkpointer(build_model(cfg), tmp_path).save("other")
    with pytest.raises(WeightsError, match="it lacks backbone"):
        Encoder(str(client / "config.yml"), str(tmp_path / "other.pth"), "cpu")


class Extractor:
    """As programs beside a tracker write the features of detections, with fast-reid's demo."""

    def __init__(self, cfg):
        self.cfg = cfg
        self.predictor = DefaultPredictor(cfg)
        self.device = torch.device(self.predictor.cfg.MODEL.DEVICE)

    def run_on_image(self, original_image):
        image = Image.fromarray(original_image[:, :, ::-1]).resize(tuple(self.cfg.INPUT.SIZE_TEST[::-1]))
        image = torch.as_tensor(np.asarray(image).astype("float32").transpose(2, 0, 1))[None]
        return self.predictor(image.to(self.device))


def test_a_predictor_writes_rows_of_detections_and_features(cfg, client, frame, tmp_path):
    cfg.MODEL.DEVICE = "auto"
    extractor = Extractor(cfg)
    rows = []
    for x1, y1, x2, y2 in BOXES[:2].round().astype(int):
        features = extractor.run_on_image(frame[y1:y2, x1:x2])
        features /= features.norm(dim=1, keepdim=True)  # results may be edited in place
        rows.append([1, -1, x1, y1, x2 - x1, y2 - y1, 0.9, -1, -1, -1, *features[0].numpy()])
    np.save(tmp_path / "MOT17-02.npy", np.array(rows))
    saved = np.load(tmp_path / "MOT17-02.npy")
    assert saved.shape == (2, 10 + 16)
    encoder = Encoder(str(client / "config.yml"), str(client / "model.pth"), "cpu")
    assert np.allclose(saved[:, 10:], encoder.inference(frame, BOXES[:2]), atol=1e-5)


def test_a_predictor_takes_a_path_a_picture_a_batch_and_any_size(cfg, client):
    predictor = DefaultPredictor(cfg)
    path = client / "datasets/Market1501/query/0011_c1s1_000001_01.jpg"
    expected = predictor.describe([path])
    picture = Image.open(path)
    for given in (path, str(path), picture, np.asarray(picture)):
        assert torch.allclose(predictor(given), expected, atol=1e-4)  # values up to 27
    images = torch.rand(2, 3, 64, 32) * 255
    both = predictor(images)
    assert torch.allclose(predictor(images[1]), both[1:], atol=1e-4)
    assert torch.equal(predictor({"images": images, "camids": torch.zeros(2)}), both)
    assert torch.equal(predictor(images.numpy()), both)
    assert predictor(images[:, :, :48]).shape == (2, 16)  # a convolutional network takes any size
    for result in (expected, both):
        result.zero_()


@pytest.mark.parametrize("given", ["text", None, torch.zeros(2, 3), torch.zeros(1, 4, 8, 8), {"pictures": 1}])
def test_what_is_no_picture_is_refused(cfg, given, monkeypatch):
    monkeypatch.setattr("fastreid.engine.predictor.build_for_evaluation", lambda cfg: torch.nn.Identity())
    with pytest.raises((ArgumentError, RuntimeError)):
        DefaultPredictor(cfg)(given)


class OneSize(torch.nn.Module):
    """A network that takes images of one size, as transformers with a table of positions do."""

    def forward(self, batch):
        assert batch["images"].shape[2:] == (64, 32), "wrong height"
        return batch["images"].mean(dim=(2, 3))


def test_a_network_of_one_size_says_which(cfg, monkeypatch):
    monkeypatch.setattr("fastreid.engine.predictor.build_for_evaluation", lambda cfg: OneSize())
    predictor = DefaultPredictor(cfg)
    assert predictor(torch.full((1, 3, 64, 32), 7.0)).tolist() == [[7, 7, 7]]
    with pytest.raises(ArgumentError, match=r"does not take images of 48x32, its INPUT.SIZE_TEST is 64x32 \(wrong"):
        predictor(torch.zeros(1, 3, 48, 32))
