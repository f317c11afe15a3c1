"""What the stage `export` reads for the data card beside the pictures."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid.config import ConfigError, get_cfg
from fastreid.generation import exporting
from fastreid.generation.card import UNKNOWN_LICENCE, rows_without
from fastreid.generation.export import export_pictures
from fastreid.generation.export_plan import ExportOptions
from fastreid.generation.exporting import _by_inception, _by_training, _figures, _models, _settings
from fastreid.generation.filters.build import build_filters, needed_models
from fastreid.generation.people import Identity
from fastreid.structures import PersonImage
from tests.generation.stages import SOURCES, write_stages
from tests.miniature import ROOT


def config(path):
    cfg = get_cfg()
    cfg.DIFFPERSON.CARD.RESULTS = str(path)
    return cfg


def test_figures_of_a_model_that_was_trained_on_the_pictures(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"Market1501": {"mAP": 12.34567, "Rank-1": 20, "mINP": 3}}))
    (figures,) = _by_training(config(path)).values()
    assert figures == {"mAP on Market1501": 12.3457, "Rank-1 on Market1501": 20.0}
    assert _by_training(config("")) == {}


def models_of(cfg):
    keys = cfg.DIFFPERSON.FILTER
    return needed_models(keys, build_filters(keys), ["Market1501"])


def test_the_card_names_the_models_that_took_part_and_no_others():
    cfg = get_cfg()
    cfg.merge_from_list([
        "DIFFPERSON.SD.WEIGHTS", "a/stable-diffusion-2-1", "DIFFPERSON.LPE.CAPTIONER", "file",
        "DIFFPERSON.LPE.CAPTION_FILE", "randomised_captions.jsonl", "DIFFPERSON.IIR.MODE", "encoder",
        "DIFFPERSON.IIR.INPUT", "reid", "DIFFPERSON.IIR.REID", "reid.pth", "DIFFPERSON.IIR.CLIP", "clip-vit-base",
        "DIFFPERSON.FILTER.MODELS", "['Market1501=m.pth', 'MSMT17=n.pth']", "DIFFPERSON.GEN.LORA", "lcm.safetensors",
        "DIFFPERSON.FILTER.NAMES", "['blur']", "DIFFPERSON.FILTER.DETECTOR_WEIGHTS", "not_there.pth",
    ])  # fmt: skip
    assert {model.role: (model.path, model.licence) for model in _models(cfg, models_of(cfg))} == {
        "text to image": ("a/stable-diffusion-2-1", "CreativeML Open RAIL++-M"),
        "captions": ("randomised_captions.jsonl", UNKNOWN_LICENCE),
        "identity words, re-identification": ("reid.pth", UNKNOWN_LICENCE),
        "pictures, LoRA": ("lcm.safetensors", UNKNOWN_LICENCE),
    }
    cfg.merge_from_list([
        "DIFFPERSON.IIR.INPUT", "clip", "DIFFPERSON.FILTER.NAMES", "['reid']", "DIFFPERSON.GEN.LORA", "",
        "DIFFPERSON.SD.WEIGHTS", "models--CompVis--stable-diffusion-v1-4", "DIFFPERSON.LPE.CAPTIONER", "none",
    ])  # fmt: skip
    assert {model.role: model.licence for model in _models(cfg, models_of(cfg))} == {
        "text to image": "CreativeML Open RAIL-M", "identity words, CLIP": "MIT", "filter, Market1501": UNKNOWN_LICENCE,
    }  # fmt: skip


def test_the_card_says_which_people_and_images_were_chosen():
    cfg = get_cfg()
    assert not [name for name in _settings(cfg) if name.startswith("DATASETS")]
    cfg.merge_from_list(["DATASETS.PEOPLE", "[0.0, 0.5]", "DATASETS.SUBSET.MODE", "few_shot"])
    shown = _settings(cfg)
    assert shown["DATASETS.PEOPLE"] == [0.0, 0.5] and shown["DATASETS.SUBSET.MODE"] == "few_shot"


def test_fid_and_kid_are_of_the_features_of_the_network(tmp_path, monkeypatch):
    class Mean(torch.nn.Module):
        def forward(self, images):
            assert images.dtype is torch.uint8 and images.ndim == 4
            return images.float().mean(dim=(2, 3))

    monkeypatch.setattr(exporting, "inception", lambda weights: Mean())
    monkeypatch.setattr(exporting, "_BATCH", 2)
    draw = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(8):
        pixels = draw.integers(0, 200, (4 + number // 3, 3, 3), dtype=np.uint8)  # of several sizes
        Image.fromarray(pixels).save(tmp_path / f"pictures/{number}.png")
        Image.fromarray(pixels + np.uint8(50)).save(tmp_path / f"{number}.png")
    rows = [{"file": f"{number}.png"} for number in range(8)]
    cfg = config("")
    cfg.DIFFPERSON.CARD.INCEPTION, cfg.MODEL.DEVICE = "weights.pth", "cpu"
    same = _by_inception(cfg, tmp_path, rows, [(str(tmp_path / f"pictures/{number}.png"), 0) for number in range(8)])
    other = _by_inception(cfg, tmp_path, rows, [(str(tmp_path / f"{number}.png"), 0) for number in range(8)])
    assert same["FID"] == pytest.approx(0, abs=1e-4) and other["FID"] == pytest.approx(3 * 50**2, rel=1e-3)
    assert other["KID"] > same["KID"]
    cfg.DIFFPERSON.CARD.INCEPTION = ""
    assert _by_inception(cfg, tmp_path, rows, []) == {}


@pytest.mark.parametrize(
    "content", [None, "{", "[1]", '{"a": 3}', '{"a": {"mAP": 1}}', '{"a": {"mAP": "x", "Rank-1": 2}}']
)
def test_another_file_is_refused(content, tmp_path):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match="DIFFPERSON.CARD.RESULTS .* is no results.json of an evaluation"):
        _by_training(config(path))


def test_people_of_excluded_sources_are_in_no_figure(tmp_path, monkeypatch):
    folder = write_stages(tmp_path / "run")
    export_pictures(folder, ExportOptions(exclude_sources=("CUHK03",)))
    people = [
        Identity(gid, source, str(gid), (PersonImage(path=f"{gid}.png", person=gid, camera=0),))
        for gid, source in enumerate(SOURCES)
    ]
    seen = {}
    monkeypatch.setattr(
        exporting, "_by_features", lambda cfg, root, rows, real: seen.update(rows=rows, real=real) or {}
    )
    cfg = get_cfg()
    cfg.DIFFPERSON.GRAMMAR = str(ROOT / "configs/grammars/rendered.yml")
    figures = _figures(cfg, folder, *rows_without(folder, ["CUHK03"]), people)
    # Person 3 is of CUHK03, and no picture of person 2 is kept.
    assert {row["gid"] for row in seen["rows"]} == {gid for _, gid in seen["real"]} == {0, 1, 4}
    assert len(seen["rows"]) == 11 and figures["keep rate"]["kept"] == round(11 / 16, 4)
