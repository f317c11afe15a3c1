"""Predictor: the features of an evaluation, of pictures of any kind, by a checkpoint alone."""

import contextlib
import io
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import fastreid
from fastreid.config import ConfigError, with_values
from fastreid.data.images import ImageReadError
from fastreid.encoder import Predictor
from fastreid.engine import DefaultPredictor, DefaultTrainer
from fastreid.modeling.trained import load_trained
from fastreid.retrieval.extraction import FeatureStore
from fastreid.structures import PersonImage
from fastreid.utils.errors import ArgumentError
from tests.pages import TEXTS, blocks


@pytest.fixture(scope="module")
def checkpoint(people):
    return people / "out/model_final.pth"


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor(checkpoint)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Image files of several sizes and kinds, two of them with an orientation."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number, (height, width) in enumerate([(40, 20), (32, 32), (90, 33), (17, 50), (128, 64)]):
        picture = Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 8 if number > 2 else 1
        picture.save(folder / f"{number}.{'jpg' if number % 2 else 'png'}", exif=exif)
    return sorted(folder.iterdir())


def evaluated(cfg, paths):
    """The descriptors of an evaluation, in which all images are in one batch."""
    model, _ = load_trained(cfg.MODEL.WEIGHTS, config=cfg)
    images = [PersonImage(str(path), 0, 0) for path in paths]
    store = FeatureStore()
    store.extract(model, DefaultTrainer.build_feature_loader(cfg, images), flip=cfg.TEST.FLIP.ENABLED)
    return store.select(images)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"TEST.FLIP.ENABLED": True},
        {"INPUT.INTERPOLATION_TEST": "bilinear", "INPUT.SIZE_TEST": [48, 40], "INPUT.CROP.ENABLED": True,
         "INPUT.CROP.SIZE": [32, 32]},
    ],
    ids=["bicubic", "flip", "bilinear, cropped"],
)  # fmt: skip
def test_features_of_files_are_those_of_an_evaluation(checkpoint, pictures, keys):
    cfg = with_values(load_trained(checkpoint)[1], keys)
    mine = Predictor(checkpoint, config=cfg)
    expected = evaluated(cfg, pictures)
    assert torch.equal(mine.embed(pictures, normalize=False), expected)
    assert torch.equal(mine.embed(pictures), F.normalize(expected, dim=1))
    torch.testing.assert_close(mine.embed(pictures, normalize=False, batch_size=2), expected)
    assert torch.equal(DefaultPredictor(with_values(cfg, {"DATALOADER.NUM_WORKERS": 4})).describe(pictures), expected)


def test_pictures_in_memory_have_the_features_of_their_files(predictor, pictures):
    expected = predictor.embed(pictures)
    opened = [Image.open(path) for path in pictures]
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in pictures[:3]]
    tensors = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    assert torch.equal(predictor.embed(opened), expected)
    assert torch.equal(predictor.embed([*arrays, *pictures[3:]]), expected)
    assert torch.equal(predictor.embed([*tensors, *opened[3:]]), expected)
    bgr = [arrays[0][..., ::-1], tensors[1].flip(0), arrays[2][..., ::-1].astype(np.float32)]
    torch.testing.assert_close(predictor.embed(bgr, bgr=True), expected[:3])


def test_one_picture_is_one_row(predictor, pictures):
    expected = predictor.embed([pictures[1]])
    array = np.array(Image.open(pictures[1]))
    for one in (pictures[1], str(pictures[1]), Image.open(pictures[1]), array, array[None]):
        assert torch.equal(predictor.embed(one), expected)
    assert expected.shape == (1, predictor.dim) and expected.dtype == torch.float32
    torch.testing.assert_close(expected.norm(dim=1), torch.ones(1))


def test_people_in_a_frame(predictor, tmp_path):
    frame = np.random.default_rng(1).integers(0, 256, (120, 200, 3), dtype=np.uint8)
    boxes = np.array([[3.4, 5.2, 40.1, 110.9], [-20, 60, 77, 400], [100, 0, 200, 120]])
    expected = predictor.embed([frame[5:111, 3:40], frame[60:, :77], frame[:, 100:]])
    assert torch.equal(predictor.embed(frame, boxes), expected)
    assert torch.equal(predictor.embed(frame[..., ::-1], torch.from_numpy(boxes), bgr=True), expected)
    Image.fromarray(frame).save(tmp_path / "frame.png")
    assert torch.equal(predictor.embed(tmp_path / "frame.png", boxes.tolist()), expected)
    assert torch.equal(predictor.embed(torch.from_numpy(frame).permute(2, 0, 1), boxes), expected)
    for several in ([frame, frame], frame[None]):
        with pytest.raises(
            ArgumentError, match=r"boxes are of one frame, got several: call embed\(frame, boxes\) for ea"
        ):
            predictor.embed(several, boxes)
    with pytest.raises(ArgumentError, match="^box 1 is .*no pixel in the frame of 200 x 120"):
        predictor.embed(frame, [[0, 0, 9, 9], [300, 0, 400, 9]])
    with pytest.raises(ArgumentError, match=r"^the frame is an array \[120, 200\]"):
        predictor.embed(frame[..., 0], boxes)


def test_nothing_is_no_rows(predictor):
    dim = predictor.embed(np.zeros((32, 32, 3), np.uint8)).shape[1]
    frame = np.zeros((50, 50, 3), np.uint8)
    for none in (predictor.embed([]), predictor.embed(frame, []), predictor.embed(np.empty((0, 32, 32, 3), np.uint8))):
        assert none.shape == (0, dim) and none.dtype == torch.float32


def test_many_images_keep_their_order(predictor, pictures):
    many = [pictures[number % 5] for number in range(43)]
    expected = predictor.embed(pictures)
    rows = predictor.embed((path for path in many), batch_size=4)
    torch.testing.assert_close(rows, expected[[number % 5 for number in range(43)]])


def test_no_processes_are_started_for_a_few_images(checkpoint, predictor, pictures, monkeypatch):
    def refused(process):
        raise AssertionError(f"{process} was started")

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refused)
    assert len(predictor.embed(pictures, batch_size=2)) == 5
    cfg = with_values(load_trained(checkpoint)[1], {"DATALOADER.NUM_WORKERS": 4, "TEST.IMS_PER_BATCH": 5})
    assert len(DefaultPredictor(cfg).describe(pictures)) == 5
    with pytest.raises(AssertionError, match="was started"):
        DefaultPredictor(with_values(cfg, {"TEST.IMS_PER_BATCH": 4})).describe(pictures)


def test_what_cannot_be_embedded_is_named(predictor, pictures, tmp_path):
    with pytest.raises(ImageReadError, match=r"cannot read image .*no\.png: there is no such file"):
        predictor.embed([*pictures, tmp_path / "no.png"], batch_size=2)
    with pytest.raises(ArgumentError, match=r"^image 1 .*multiply it by 255"):
        predictor.embed([pictures[0], np.full((4, 4, 3), 0.5)])
    with pytest.raises(ArgumentError, match="batch_size must be at least 1, got 0"):
        predictor.embed(pictures, batch_size=0)
    with pytest.raises(ArgumentError, match="batch_size must be a whole number"):
        predictor.embed(pictures, batch_size=2.0)
    for name in ("bgr", "normalize"):
        with pytest.raises(ArgumentError, match=f"{name} must be True or False, got 'False'"):
            predictor.embed(pictures, **{name: "False"})


def test_what_is_no_path_is_no_checkpoint(checkpoint):
    with pytest.raises(ConfigError, match="a checkpoint is the path of a file, got None"):
        Predictor(None)
    with pytest.raises(ConfigError, match=r"config is a config or the path of a YAML file, got 3 \(int\)"):
        Predictor(checkpoint, config=3)


def test_a_feature_that_is_not_finite_names_its_picture(checkpoint):
    broken = Predictor(checkpoint)
    with torch.no_grad():
        next(broken.model.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="the descriptor of image number 0/.* is not finite"):
        broken.embed(np.zeros((32, 32, 3), np.uint8))


def test_names_of_pictures_in_memory_do_not_depend_on_their_order(checkpoint, monkeypatch):
    predictor, seen = Predictor(checkpoint), []
    forward = predictor.model.forward
    monkeypatch.setattr(predictor.model, "forward", lambda batch: seen.append(batch["img_paths"]) or forward(batch))
    first, second = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    predictor.embed([first, second])
    predictor.embed([second, first])
    names = [[name.split("/") for name in names] for names in seen]
    assert [name[0] for name in names[0]] == ["number 0", "number 1"]
    assert [name[1] for name in names[0]] == [name[1] for name in names[1]][::-1]


def test_a_device_that_is_not_there(checkpoint):
    with pytest.raises(ConfigError, match="device 'gpu' is no torch device"):
        Predictor(checkpoint, device="gpu")


def test_the_package_has_it_and_imports_it_late():
    assert fastreid.Predictor is Predictor
    with pytest.raises(AttributeError, match="module 'fastreid' has no attribute 'Predicter'"):
        fastreid.Predicter  # noqa: B018
    script = (
        "import sys, fastreid; assert 'torch' not in sys.modules; fastreid.Predictor; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_examples_of_the_page_run(checkpoint, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model_final.pth").symlink_to(checkpoint)
    for name, path in zip(("a.png", "b.png"), pictures[::2], strict=False):
        (tmp_path / name).symlink_to(path)
    frame = np.random.default_rng(3).integers(0, 256, (120, 200, 3), dtype=np.uint8)
    boxes = np.array([[0, 0, 40, 110], [60, 0, 120, 120], [150, 20, 200, 120]])
    names = {
        "frame": frame,
        "boxes": boxes,
        "detections": [(frame, boxes[:2]), (frame, boxes[::-1]), (frame, boxes[:0])],
    }
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for example in blocks(TEXTS["docs/predictor.md"], "python"):
            exec(example, names)
    assert names["features"].shape == (2, names["predictor"].dim) and names["people"].shape[0] == 3
    assert said.getvalue().splitlines()[-3:] == ["[0, 1]", "[2, 1, 0]", "[]"]
