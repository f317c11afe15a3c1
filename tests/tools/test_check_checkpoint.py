"""tools/check_checkpoint.py: what fits, a sanity figure, and files of other models."""

import re

import pytest
import torch

from fastreid.config import get_cfg
from fastreid.modeling.model import build_model
from tools.check_checkpoint import main

KEYS = ["MODEL.BACKBONE.NAME", "build_osnet_backbone", "MODEL.BACKBONE.DEPTH", "x0_25", "MODEL.DEVICE", "cpu"]
KEYS += ["INPUT.SIZE_TEST", "[64, 32]", "INPUT.SIZE_TRAIN", "[64, 32]"]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "recipe.yml").write_text("MODEL: {HEADS: {WITH_BNNECK: True}}\n")
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "recipe.yml"))
    cfg.merge_from_list([*KEYS, "MODEL.HEADS.NUM_CLASSES", 5])
    torch.manual_seed(1)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    return str(tmp_path / "model.pth"), str(tmp_path / "recipe.yml")


def test_what_fits_and_a_figure(files, capsys):
    file, recipe = files
    main([file, "--config-file", recipe, "--people", "4", *KEYS])
    said = capsys.readouterr().out
    assert f"{file} fits {recipe}" in said
    assert re.search(r"classifiers of another class count +1 +heads.weight: file \[5, 128\], model \[1, 128\]", said)
    assert re.search(r"missing in the file +0", said) and re.search(r"in the file only +0", said)
    found, random = map(float, re.search(r"mAP on 4 rendered people: ([\d.]+) %, with .* ([\d.]+) %", said).groups())
    assert 25 < found < 100 and 25 < random < 100  # both are random weights here, of different seeds
    assert found != random


def test_a_file_of_another_model_is_an_error(files):
    file, recipe = files
    with pytest.raises(SystemExit, match=r"check_checkpoint: error: .* is no checkpoint of a trained Baseline"):
        main([file, "--config-file", recipe, "MODEL.DEVICE", "cpu"])


def test_one_person_cannot_be_ranked(files, capsys):
    file, recipe = files
    with pytest.raises(SystemExit):
        main([file, "--config-file", recipe, "--people", "1"])
    assert "--people must be 2 or more, got 1" in capsys.readouterr().err
