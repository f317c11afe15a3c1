"""What is exported, and what is refused."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastreid.config import ConfigError, get_cfg
from fastreid.export import FORMATS, ExportOptions, ModelExportError, export, export_model
from fastreid.export.agreement import Agreement, sample_images
from fastreid.modeling.image_module import ImageModule
from fastreid.utils.errors import ArgumentError
from tests.export.models import MLP, tiny_cfg, tiny_model

SIZE = (16, 8)


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.SIZE_TEST", list(SIZE), "MODEL.META_ARCHITECTURE", "Mine"])
    return cfg


class Mean(ImageModule):
    """The mean colour of the normalized image, squared, so that the order of steps counts."""

    def __init__(self):
        super().__init__([120.0, 110.0, 100.0], [60.0, 50.0, 40.0])

    def forward(self, batch):
        images = self.preprocess_image(batch)
        ramp = torch.linspace(0, 1, images.shape[3])
        return torch.cat([images.square().mean(dim=(2, 3)), (images * ramp).mean(dim=(2, 3))], dim=1)


def load(path):
    texts = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=texts).module()
    return program, json.loads(texts["metadata.json"])


def test_the_graph_takes_bytes_and_gives_unit_rows(cfg, tmp_path):
    export_model(Mean(), cfg, tmp_path / "m.pt2", ExportOptions("torch"))
    program, metadata = load(tmp_path / "m.pt2")
    images = sample_images(3, SIZE, seed=9)
    torch.testing.assert_close(program(images=images), F.normalize(Mean()({"images": images.float()})))
    assert metadata["inputs"] == {"images": {"type": "uint8", "shape": ["batch", 3, *SIZE]}}
    assert metadata["preprocessing"]["normalization"] == "in the graph"


def test_pixels_are_normalized_as_the_metadata_says(cfg, tmp_path):
    model, images = Mean(), sample_images(3, SIZE, seed=9)
    export_model(model, cfg, tmp_path / "m.pt2", ExportOptions("torch", "metadata", has_unit_length=False))
    program, metadata = load(tmp_path / "m.pt2")
    told = metadata["preprocessing"]
    mean, deviation = (torch.tensor(told[name]).view(3, 1, 1) for name in ("pixel_mean", "pixel_std"))
    torch.testing.assert_close(program(images=(images - mean) / deviation), model({"images": images.float()}))
    assert metadata["inputs"]["images"]["type"] == "float32" and told["normalization"] == "before the graph"
    assert told["resize"] == {"size": list(SIZE), "interpolation": "bicubic", "as": "Pillow"}
    assert model.pixel_mean.flatten().tolist() == [120.0, 110.0, 100.0]  # of the model that was given


def test_a_mirror_image_is_averaged_as_in_evaluation(cfg, tmp_path):
    cfg.TEST.FLIP.ENABLED = True
    export_model(Mean(), cfg, tmp_path / "m.pt2", ExportOptions("torch", has_unit_length=False))
    program, metadata = load(tmp_path / "m.pt2")
    images = sample_images(3, SIZE, seed=9)
    both = [Mean()({"images": version.float()}) for version in (images, images.flip(-1))]
    torch.testing.assert_close(program(images=images), (both[0] + both[1]) / 2)
    assert metadata["features"]["mean_with_mirror_image"] is True


class WithCameras(Mean):
    def forward(self, batch):
        return super().forward(batch) + batch["camids"][:, None]


def test_ids_that_a_model_reads_are_inputs(cfg, tmp_path):
    export_model(WithCameras(), cfg, tmp_path / "m.pt2", ExportOptions("torch", has_unit_length=False))
    program, metadata = load(tmp_path / "m.pt2")
    images, camids = sample_images(3, SIZE, seed=9), torch.tensor([4, 0, 7])
    expected = WithCameras()({"images": images.float(), "camids": camids})
    torch.testing.assert_close(program(images=images, camids=camids), expected)
    assert metadata["inputs"]["camids"] == {"type": "int64", "shape": ["batch"]}


class OfNames(Mean):
    def forward(self, batch):
        return super().forward(batch) + len(batch["img_paths"][0])


class OfFixedSize(Mean):
    def forward(self, batch):
        features = super().forward(batch)
        return features + torch.zeros(len(features), 1)


class OfValues(Mean):
    def forward(self, batch):
        features = super().forward(batch)
        return features if features.sum() > 0 else -features


class OfState(Mean):
    calls = 0

    def forward(self, batch):
        self.calls += 1
        return super().forward(batch) + 0.01 * self.calls


class Diverged(Mean):
    def forward(self, batch):
        return super().forward(batch) * float("nan")


class Own(nn.Module):
    def forward(self, batch):
        return batch["images"].mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("model", "preprocess", "message"),
    [
        (OfNames, "graph", "Mine reads 'img_paths' of a batch"),
        (OfFixedSize, "graph", "cannot trace Mine with a batch of any size: .*take sizes of a batch as tensor.shape"),
        (OfValues, "graph", "cannot trace Mine"),
        (OfState, "graph", "does not compute what the model does, so .*m.pt2 is not written: batches of 1, 2 and 5"),
        (Diverged, "graph", "not finite"),
        (Own, "metadata", "choose --preprocess graph"),
    ],
)
def test_what_cannot_be_exported_is_explained_and_an_earlier_file_stays(cfg, tmp_path, model, preprocess, message):
    (tmp_path / "m.pt2").write_bytes(b"earlier")
    with pytest.raises(ModelExportError, match=message):
        export_model(model(), cfg, tmp_path / "m.pt2", ExportOptions("torch", preprocess))
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt2"]
    assert (tmp_path / "m.pt2").read_bytes() == b"earlier"


@pytest.mark.parametrize("form", FORMATS)
def test_a_graph_for_one_size_of_batch_is_found(cfg, tmp_path, monkeypatch, form):
    def fixed(module, inputs):
        return torch.export.export(module, (), dict(inputs))

    monkeypatch.setattr(export, "trace", fixed)
    with pytest.raises(ModelExportError, match="fails with a batch of 1: "):
        export_model(Mean(), cfg, tmp_path / f"m{FORMATS[form].suffix}", ExportOptions(form))
    assert list(tmp_path.iterdir()) == []


def test_the_tolerance_is_enforced(cfg, tmp_path, monkeypatch):
    def nearly(content):
        run = FORMATS["torch"].load(content)
        return lambda inputs: 1.01 * run(inputs)

    loads = dataclasses.replace(FORMATS["torch"], load=nearly)
    monkeypatch.setattr(export, "FORMATS", {"torch": loads})
    with pytest.raises(ModelExportError, match=r"The tolerance is 0.001"):
        export_model(Mean(), cfg, tmp_path / "m.pt2", ExportOptions("torch"))
    export_model(Mean(), cfg, tmp_path / "m.pt2", ExportOptions("torch", tolerance=0.02))


@pytest.mark.parametrize("missing", FORMATS["onnx"].packages)
def test_missing_packages_are_named(cfg, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    with pytest.raises(ModelExportError, match=rf"{missing} cannot be imported .*: pip install 'fastreid\[export\]'"):
        export_model(Mean(), cfg, tmp_path / "m.onnx", ExportOptions("onnx"))
    export_model(Mean(), cfg, tmp_path / "m.pt2", ExportOptions("torch"))


@pytest.mark.parametrize("noise", ["image", "name", "fresh"])
def test_noise_of_the_image_or_the_batch_is_refused(assets, tmp_path, noise):
    cfg = tiny_cfg("SDReIDStage2", assets, *MLP, "TEST.SDMODEL.NOISE", noise)
    with pytest.raises(ConfigError, match=f"TEST.SDMODEL.NOISE is {noise}, .*add TEST.SDMODEL.NOISE shared"):
        export_model(tiny_model(cfg), cfg, tmp_path / "m.pt2", ExportOptions("torch"))
    cfg.merge_from_list(["TEST.SDMODEL.PARTS", ("person",)])  # draws no noise
    export_model(tiny_model(cfg), cfg, tmp_path / "m.pt2", ExportOptions("torch"))


def test_micro_batches_do_not_fix_the_batch_and_stay_those_of_the_model(assets, tmp_path):
    cfg = tiny_cfg("SDReIDStage2", assets, *MLP, "TEST.SDMODEL.MICRO_BATCH", 3, "TEST.SDMODEL.NUM_INFERENCE_STEPS", 1)
    model = tiny_model(cfg)
    export_model(model, cfg, tmp_path / "m.pt2", ExportOptions("torch"))
    assert model.sampler.micro_batch == 3


def test_a_view_without_a_centre_is_refused(assets, tmp_path):
    cfg = tiny_cfg("SDReIDStage2", assets, *MLP)
    model = tiny_model(cfg)
    model.person.memory.seen[1] = False
    with pytest.raises(ConfigError, match=r"views \[1\] have no centre"):
        export_model(model, cfg, tmp_path / "m.pt2", ExportOptions("torch"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onx"}, "unknown format 'onx'; did you mean 'onnx'.* Legal: onnx, torch"),
        ({"format": "torch", "preprocess": "meta"}, "did you mean 'metadata'"),
        ({"format": "torch", "tolerance": 0.0}, "a number above 0, got 0.0"),
        ({"format": "torch", "tolerance": float("nan")}, "a number above 0, got nan"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(ArgumentError, match=message):
        ExportOptions(**options)


def test_the_suffix_is_that_of_the_format(cfg, tmp_path):
    with pytest.raises(ArgumentError, match=r"m.onnx: a file of format torch must have a name that ends with .pt2"):
        export_model(Mean(), cfg, tmp_path / "m.onnx", ExportOptions("torch"))


def test_agreement_measures_the_worst_number_and_the_worst_row():
    expected = [torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])]
    found = [torch.tensor([[3.0, 4.5]]), torch.tensor([[1.0, 0.0], [2.0, 0.0]])]
    agreement = Agreement.of(found, expected)
    assert (agreement.difference, agreement.scale, agreement.cosine) == (2.0, 4.0, 0.0)
    assert agreement.is_within(1.0) and not agreement.is_within(0.6)
    assert not Agreement.of([expected[0] * float("nan")], expected[:1]).is_within(1e9)


def test_sample_images_are_the_same_ones_each_time_and_of_both_kinds():
    images = sample_images(4, (32, 16), seed=1)
    assert images.dtype == torch.uint8 and torch.equal(images, sample_images(4, (32, 16), seed=1))
    steps = (images.float().diff(dim=-1)).abs().mean(dim=(1, 2, 3))
    assert steps[::2].max() < 0.4 * steps[1::2].min()
