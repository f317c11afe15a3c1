"""Clusters of a trained model as a table and contact sheets."""

import csv
import logging
import os

import numpy as np
import torch
from PIL import Image

from fastreid.data import picture_grid
from fastreid.labeling import export
from fastreid.labeling.export import by_size, export_clusters


def images(folder, count):
    paths = []
    for number in range(count):
        paths.append(str(folder / f"{number}.png"))
        Image.new("RGB", (8, 16), (10 * number, 250, 0)).save(paths[-1])
    return paths


def table(folder):
    with open(folder / "clusters.csv", newline="") as file:
        return list(csv.reader(file))


def test_the_largest_cluster_is_the_first_and_equal_sizes_keep_their_order():
    clusters = torch.tensor([0, 1, 1, -1, 2, 2, 2, 3, 3])
    assert by_size(clusters) == [3, 1, 1, -1, 0, 0, 0, 2, 2]
    assert by_size(torch.tensor([-1, -1])) == [-1, -1]


def test_the_table_has_distances_to_centres_and_outliers_last(tmp_path):
    paths = images(tmp_path, 5)
    features = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0], [0.6, 0.8], [5.0, 0.0]])
    export_clusters(tmp_path, paths, features, torch.tensor([-1, 0, 1, 1, 0]))
    header, *rows = table(tmp_path)
    assert header == ["image", "cluster", "distance"]
    assert [row[:2] for row in rows[:2]] == [[paths[1], "0"], [paths[4], "0"]] and rows[-1] == [paths[0], "-1", ""]
    near = features[2:4] / features[2:4].norm(dim=1, keepdim=True)
    centre = near.mean(0) / near.mean(0).norm()
    np.testing.assert_allclose([float(row[2]) for row in rows[2:4]], sorted(1 - near @ centre), atol=1e-6)
    assert sorted(os.listdir(tmp_path / "clusters")) == ["0000.jpg", "0001.jpg"]


def test_sheets_of_an_earlier_export_are_removed_and_other_files_are_not(tmp_path):
    paths, features = images(tmp_path, 4), torch.eye(4)
    export_clusters(tmp_path, paths, features, torch.arange(4))
    (tmp_path / "clusters/notes.txt").write_text("mine")
    export_clusters(tmp_path, paths, features, torch.tensor([0, 0, 0, -1]))
    assert sorted(os.listdir(tmp_path / "clusters")) == ["0000.jpg", "notes.txt"]
    export_clusters(tmp_path, paths, features, torch.full((4,), -1))
    assert os.listdir(tmp_path / "clusters") == ["notes.txt"]
    assert [row[1:] for row in table(tmp_path)[1:]] == [["-1", ""]] * 4


def test_many_images_are_sampled_over_the_distances_and_both_caps_are_logged(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(export, "MAX_IMAGES", 3)
    monkeypatch.setattr(export, "MAX_SHEETS", 1)
    shown = []
    monkeypatch.setattr(picture_grid, "read_pixels", lambda path: shown.append(path) or np.zeros((4, 4, 3), np.uint8))
    paths = [f"{number}.png" for number in range(9)]
    features = torch.stack([torch.ones(9), torch.arange(9) / 9], dim=1)
    with caplog.at_level(logging.INFO):
        export_clusters(tmp_path, paths, features, torch.tensor([0] * 7 + [1] * 2))
    order = [row[0] for row in table(tmp_path)[1:]]
    assert shown == [order[0], order[3], order[6]]
    assert os.listdir(tmp_path / "clusters") == ["0000.jpg"]
    assert "the 2 clusters" in caplog.text and "of the 1 largest; 1 of them have more than 3 images" in caplog.text


def test_an_image_that_is_gone_and_a_name_that_is_not_utf8_do_not_matter(tmp_path, caplog):
    paths = [*images(tmp_path, 2), os.fsdecode(b"caf\xe9.png")]
    export_clusters(tmp_path, paths, torch.ones(3, 2), torch.zeros(3, dtype=torch.int64))
    assert r"caf\udce9.png" in [row[0] for row in table(tmp_path)]
    assert "is not on the contact sheet of cluster 0" in caplog.text
    assert (tmp_path / "clusters/0000.jpg").exists()
