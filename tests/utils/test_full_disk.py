"""What writes a file says in one sentence that the disk is full, and leaves nothing half-written."""

import errno
import json
import os
import runpy
import sys

import numpy as np
import pytest
from PIL import Image

from fastreid.evaluation.plots import draw_plots
from fastreid.evaluation.results import write_json, write_results
from fastreid.evaluation.roc import Curves
from fastreid.evaluation.scoring import score_features
from fastreid.evaluation.scoring_options import Scoring
from fastreid.rendering import render_benchmark
from fastreid.utils.files import DiskError, atomic_write, explained_disk_errors, remove_leftovers, save_picture
from fastreid.utils.manifest import write_manifest
from fastreid.utils.writers import JSONWriter, TensorboardWriter
from tests.evaluation.test_roc import protocol
from tests.miniature import PEOPLE, ROOT
from tests.small_disk import small_disk

RECORD = {"iteration": 1, "epoch": 0, "lr": 0.1, "note": "x" * 40_000}
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))


def text(folder):
    with atomic_write(folder / "x.txt") as file:
        file.write("x" * 40_000)


def json_lines(folder):
    writer = JSONWriter(folder / "metrics.json")
    try:
        writer.write({"iteration": 0, "lr": 1})
        writer.write(RECORD)
    finally:
        writer.close()
        assert (folder / "metrics.json").read_text() == '{"iteration": 0, "lr": 1}\n'


def tensorboard(folder):
    writer = TensorboardWriter(folder)
    for iteration in range(2000):
        writer.write({"iteration": iteration, "lr": 0.1})


def plots(folder):
    result = score_features(*protocol(1, q=40, g=400, dim=16), Scoring(roc=True))
    draw_plots({"P": Curves(result.cmc, result.roc)}, folder)


def assets(folder):
    runpy.run_path(str(ROOT / "tools/make_assets.py"))["make_assets"]("tiny", folder / "assets")


WRITERS = {
    "atomic_write": text,
    "results.json": lambda folder: write_json(folder / "results.json", ["x" * 40_000]),
    "results.csv": lambda folder: write_results(folder, {"P" * 20_000: {"mAP": 1.0}}),
    "manifest": lambda folder: write_manifest(folder / "manifest.json", {"format": "x" * 40_000}),
    "picture": lambda folder: save_picture(NOISE, folder / "sheet.jpg", quality=95),
    "metrics.json": json_lines,
    "TensorBoard": tensorboard,
    "plots": plots,
    "rendered": lambda folder: render_benchmark(folder, "CARGO", workers=1, **PEOPLE),
    "rendered by processes": lambda folder: render_benchmark(folder, "CARGO", workers=2, **PEOPLE),
    "assets": assets,
}


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_named(tmp_path, name):
    with small_disk(tmp_path / "disk", "36k") as disk:
        with pytest.raises(DiskError, match=r"could not be written: the disk is full \(0 MiB are free\). ") as error:
            WRITERS[name](disk)
        assert error.value.errno == errno.ENOSPC and str(disk) in str(error.value)
        left = [path.name for path in disk.iterdir() if path.name.startswith(".")]
        assert left == []


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EDQUOT, "the disk is full for this user"),
        (errno.EIO, "the disk reports an error"),
        (errno.EROFS, "the disk is read-only"),
    ],
)
def test_other_troubles_of_disks(tmp_path, number, said):
    with pytest.raises(DiskError, match=f"x could not be written: {said}") as error, atomic_write(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    assert error.value.errno == number and isinstance(error.value, OSError)


def test_what_is_not_the_disks_fault_passes(tmp_path):
    for error in (FileNotFoundError(errno.ENOENT, "no such file"), RuntimeError("other"), DiskError(5, "said before")):
        with pytest.raises(type(error)) as found, explained_disk_errors(tmp_path / "x"):
            raise error
        assert found.value is error


def test_libraries_that_hide_the_error_number_are_understood(tmp_path):
    for said in ("I/O error: No space left on device (os error 28)", "write: Disk quota exceeded"):
        with pytest.raises(DiskError, match="the disk is full"), explained_disk_errors(tmp_path / "x"):
            raise RuntimeError(said)


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    ours = [".model_0000.pth.ab_d1234.tmp", ".results.json.00000000.tmp"]
    others = [".model.tmp", "x.ab_d1234.tmp", ".x.abcd123.tmp", ".x.ABCD1234.tmp", ".x.abcd1234.tmp2", "model_0000.pth"]
    for name in (*ours, *others):
        (tmp_path / name).write_text("")
    (tmp_path / ".folder.abcd1234.tmp").mkdir()
    assert remove_leftovers(tmp_path) == sorted(ours)
    assert sorted(os.listdir(tmp_path)) == sorted([*others, ".folder.abcd1234.tmp"])
    assert remove_leftovers(tmp_path / "none") == []


def test_pictures_are_written_by_their_ending(tmp_path):
    save_picture(NOISE, tmp_path / "new" / "x.PNG")
    assert Image.open(tmp_path / "new" / "x.PNG").format == "PNG"
    with pytest.raises(ValueError, match=r"x.jgp: pictures are written as .jpg, .png"):
        save_picture(NOISE, tmp_path / "x.jgp")
    assert os.listdir(tmp_path) == ["new"]


def test_a_folder_is_flushed_after_the_rename(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def flushed(descriptor):
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def renamed(*paths):
        events.append("rename")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    write_json(tmp_path / "x.json", {})
    assert events == ["file", "rename", "folder"] and json.loads((tmp_path / "x.json").read_text()) == {}
