"""Tiny Stable Diffusion with a text encoder, and a folder with the images and captions of three people."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastreid.config import get_cfg
from tests.miniature import run_tool
from tests.tiny import make_people

GRAMMAR = """
words:
  colour: [red, dark blue, blue, green, white]
slots:
  upper: ["a {colour} top", "a {colour} jacket"]
  lower: ["{colour} trousers", a skirt]
  carrying: [a backpack, a handbag, ""]
  action: [walking, standing, running]
prefix: a photo of a person
order: [upper, lower, carrying, action]
identity: [upper, lower]
swaps: [upper, carrying, action]
"""
CLOTHES = ("a red top, blue trousers", "a green jacket, a skirt", "a white top, dark blue trousers")


@pytest.fixture(scope="session")
def assets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("assets")
    run_tool("tools/make_assets.py", "--size", "tiny", "--text", "--output", str(folder / "sd"), cwd=folder)
    return folder / "sd"


@pytest.fixture(scope="session")
def place(tmp_path_factory, assets) -> Path:
    """A folder with people.csv, a run in out/, grammar.yml and captions.jsonl."""
    folder = tmp_path_factory.mktemp("diffperson")
    make_people(folder)
    (folder / "grammar.yml").write_text(GRAMMAR)
    lines = []
    for path in sorted(folder.glob("train_*.png")):
        person = int(path.name.split("_")[1])
        lines.append(json.dumps({"image": path.name, "caption": f"{CLOTHES[person]}, walking"}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    draw = np.random.default_rng(1)
    pictures = []
    (folder / "reference").mkdir()
    for number in range(5):
        pixels = draw.integers(0, 255, (64, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"reference/{number}.png")
        pictures.append({"file": f"{number}.png", "prompt": f"a photo of a person, a red top, number {number}"})
    (folder / "reference/reference.json").write_text(json.dumps({"pictures": pictures}))
    return folder


@pytest.fixture
def make_cfg(place, assets):
    """(KEY, VALUE, …) -> a config of the generator on those people."""

    def make(*words):
        cfg = get_cfg()
        cfg.merge_from_list([*factory_keys(place, assets), *words])
        return cfg

    return make


def factory_keys(place: Path, assets: Path) -> list[str]:
    """The keys of a generator of those people."""
    return [
        *("MODEL.META_ARCHITECTURE", "DiffusionReID", "MODEL.DEVICE", "cpu"),
        *("INPUT.SIZE_TRAIN", "[64, 32]", "INPUT.SIZE_TEST", "[64, 32]", "INPUT.FLIP.ENABLED", "False"),
        *("DATASETS.NAMES", f"['csv:{place}/people.csv']", "DATASETS.TESTS", "[]"),
        *("DATALOADER.SAMPLER_TRAIN", "TrainingSampler", "DATALOADER.NUM_WORKERS", "0"),
        *("SOLVER.IMS_PER_BATCH", "3", "MODEL.HEADS.NUM_CLASSES", "3"),
        *("DIFFPERSON.SD.WEIGHTS", str(assets), "DIFFPERSON.GRAMMAR", str(place / "grammar.yml")),
        *("DIFFPERSON.LPE.CAPTIONER", "file", "DIFFPERSON.LPE.CAPTION_FILE", str(place / "captions.jsonl")),
        *("DIFFPERSON.IIR.MODE", "table", "DIFFPERSON.DI.FOLDER", str(place / "reference")),
        *("DIFFPERSON.TRAIN.COND_DROP", "0.0", "OUTPUT_DIR", str(place / "factory")),
    ]
