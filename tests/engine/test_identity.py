"""Fingerprints see what a run trains on, and nothing else."""

import dataclasses
import io
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from fastreid.engine.fingerprints import data_fingerprint
from fastreid.engine.identity import frozen_fingerprint, training_identity
from fastreid.modeling import ReidModel
from fastreid.structures import PersonImage
from tests.engine.toys import toy_cfg


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.jpg").write_bytes(bytes([i]) * 20_000)
    return [PersonImage(str(folder / f"{i}.jpg"), i // 2, i % 2, i % 2) for i in range(6)]


LABELS = [0, 0, 1, 1, 2, 2]


def changed(before, after):
    return {key for key in before if before[key] != after[key]}


def test_each_kind_of_change_has_its_own_print(images, tmp_path):
    before = data_fingerprint(images, LABELS)
    assert changed(before, data_fingerprint(images, LABELS)) == set()
    assert changed(before, data_fingerprint(images[::-1], LABELS[::-1])) == {"order"}
    assert changed(before, data_fingerprint(images, [1, 1, 0, 0, 2, 2])) == {"people"}
    other = [dataclasses.replace(images[0], camera=5), *images[1:]]
    assert changed(before, data_fingerprint(other, LABELS)) == {"cameras"}
    other = [dataclasses.replace(images[0], view=2), *images[1:]]
    assert changed(before, data_fingerprint(other, LABELS)) == {"views"}
    assert changed(before, data_fingerprint(images[:4], LABELS[:4])) >= {"images", "classes", "names"}


@pytest.mark.parametrize("place", [0, 10_000, 19_999])
def test_a_byte_at_either_end_or_in_the_middle_of_a_file_is_seen(images, tmp_path, place):
    before = data_fingerprint(images, LABELS)
    with open(images[3].path, "r+b") as file:
        file.seek(place)
        file.write(b"!")
    assert changed(before, data_fingerprint(images, LABELS)) == {"content"}


def test_two_files_exchanged_under_their_names_are_seen(images):
    before = data_fingerprint(images, LABELS)
    first, second = (Path(images[i].path).read_bytes() for i in (0, 2))
    for i, content in ((0, second), (2, first)):
        with open(images[i].path, "wb") as file:
            file.write(content)
    assert changed(before, data_fingerprint(images, LABELS)) == {"content"}


def test_where_the_data_lies_does_not_matter(images, tmp_path):
    before = data_fingerprint(images, LABELS)
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    moved = [dataclasses.replace(image, path=image.path.replace("/data/", "/elsewhere/")) for image in images]
    assert data_fingerprint(moved, LABELS) == before


def test_names_that_are_not_utf8_and_files_that_are_gone(tmp_path):
    images = [PersonImage(f"{tmp_path}/\udce9.jpg", 0, 0), PersonImage(f"{tmp_path}/b.jpg", 1, 0)]
    assert data_fingerprint(images, [0, 1])["images"] == 2


def test_of_a_large_file_three_blocks_are_read(tmp_path, monkeypatch):
    path = tmp_path / "large.jpg"
    path.write_bytes(bytes(1_000_000))
    read = []

    class Counted(io.BytesIO):
        def read(self, size=-1):
            block = super().read(size)
            read.append(len(block))
            return block

    monkeypatch.setattr("fastreid.engine.fingerprints.open_image", lambda path: Counted(Path(path).read_bytes()))
    data_fingerprint([PersonImage(str(path), 0, 0)], [0])
    assert read == [4096, 4096, 4096]


class Partly(ReidModel):
    """Keeps its first layer in checkpoints; the second comes from elsewhere."""

    def __init__(self):
        super().__init__()
        self.own, self.frozen = nn.Linear(2, 2), nn.Linear(300, 2)

    def checkpoint_state_dict(self):
        return self.own.state_dict(prefix="own.")

    def training_facts(self):
        return {"betas": (0.1, 0.2)}


def test_weights_that_are_in_no_checkpoint_are_part_of_it(tmp_path):
    torch.manual_seed(0)
    model = Partly()
    before = frozen_fingerprint(model)
    with torch.no_grad():
        model.own.weight += 1
    assert frozen_fingerprint(model) == before
    with torch.no_grad():
        model.frozen.weight[1, -1] += 1e-3
    assert frozen_fingerprint(model) != before
    assert frozen_fingerprint(nn.Linear(2, 2)) is None
    identity = training_identity(toy_cfg(tmp_path), None, None, model=model)
    assert identity["data"] is None and identity["facts"] == {"betas": [0.1, 0.2]}
    assert identity["config"]["SOLVER.BASE_LR"] == 0.05
