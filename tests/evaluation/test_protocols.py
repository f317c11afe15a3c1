"""Evaluation of several protocols: shared images once, all files written, errors raised beforehand."""

import csv
import json
import logging
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from fastreid.config import ConfigError, with_values
from fastreid.evaluation import check_protocol, evaluate_protocols
from fastreid.retrieval import matches
from fastreid.retrieval.matches import NoValidQueryError
from fastreid.structures import PersonImage
from tests.evaluation.toys import CFG, CountingModel, build_loader, two_protocols

NAMES = ["Rank-1", "Rank-5", "Rank-10", "mAP", "mINP", "metric", "valid_queries"]


def test_each_shared_image_is_embedded_once(tmp_path):
    model = CountingModel()
    results = evaluate_protocols(CFG, model, two_protocols(), build_loader, tmp_path)
    assert sorted(model.seen) == sorted(set(model.seen)) and len(model.seen) == 24
    assert list(results) == ["TOY", "TOY_AG"]
    assert results["TOY"]["valid_queries"] == 6
    assert results["TOY_AG"]["mAP"] != results["TOY"]["mAP"]  # another camera rule gives another figure


@pytest.mark.parametrize(
    "keys", [[], ["TEST.ROC.ENABLED", True, "TEST.BREAKDOWN", ("view", "camera"), "TEST.PLOTS", True]]
)
def test_labels_are_matched_once(tmp_path, monkeypatch, keys):
    calls = []
    starts = matches._starts
    # match_labels calls it twice; so does Matches.among, which does not match labels.
    monkeypatch.setattr(matches, "_starts", lambda *args: calls.append(1) or starts(*args))
    monkeypatch.setattr(matches.Matches, "among", lambda self, *_: self)
    cfg = CFG.clone()
    cfg.merge_from_list(keys)
    protocols = [check_protocol(data) for data in two_protocols()]
    assert len(calls) == 4
    found = [evaluate_protocols(cfg, CountingModel(), protocols, build_loader, tmp_path) for _ in range(2)]
    assert len(calls) == 4 and found[0] == found[1]
    assert found[0] == evaluate_protocols(cfg, CountingModel(), two_protocols(), build_loader, tmp_path)
    assert len(calls) == 8


def test_files_hold_what_was_returned(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        results = evaluate_protocols(CFG, CountingModel(), two_protocols(), build_loader, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert list(results["TOY"]) == NAMES and isinstance(results["TOY"]["valid_queries"], int)
    rows = list(csv.reader((tmp_path / "results.csv").open()))
    assert rows[0] == ["protocol", *NAMES] and rows[2][0] == "TOY_AG"
    assert float(rows[1][4]) == results["TOY"]["mAP"]
    assert "TOY_AG" in caplog.text and f"{results['TOY']['mAP']:.2f}" in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "intervals.json", "ranked_lists.json", "results.csv", "results.json"
    ]  # fmt: skip
    chance, _ = [line for line in caplog.text.partition("Evaluation results")[2].splitlines() if "chance" in line]
    level = json.loads((tmp_path / "ranked_lists.json").read_text())["TOY"]["chance"]
    cells = [cell.strip() for cell in chance.strip("│").split("│")]
    assert cells == ["chance", f"{level['Rank-1']:.2f}", "", "", f"{level['mAP']:.2f}", f"{level['mINP']:.2f}", "", ""]
    low, high = json.loads((tmp_path / "intervals.json").read_text())["TOY"]["mAP"]
    assert low <= results["TOY"]["mAP"] <= high


def test_names_of_people_and_cameras_are_kept(tmp_path, caplog):
    data = two_protocols()[0]
    data.person_names = {person: f"person-{person}" for person in range(6)}
    data.camera_names = {0: "roof", 1: "7", 2: "gate", 3: "hall"}
    cfg = CFG.clone()
    cfg.merge_from_list(["TEST.BREAKDOWN", ["camera"]])
    with caplog.at_level(logging.INFO):
        evaluate_protocols(cfg, CountingModel(noise=2.0), [data], build_loader, tmp_path)
    lists = json.loads((tmp_path / "ranked_lists.json").read_text())["TOY"]
    assert lists["failed"]
    for query in (*lists["queries"], *lists["failed"]):
        for image in (query["query"], *query["gallery"]):
            assert image["person_name"] == f"person-{image['person']}"
            assert image["camera_name"] == data.camera_names[image["camera"]]
    pair = lists["confusions"][0]
    said = f"Person person-{pair['person']} is taken for person-{pair['taken_for']} in 1 of 1"
    assert said in caplog.text
    rows = json.loads((tmp_path / "breakdown.json").read_text())["TOY"]["camera"]
    assert [(row["query"], row["gallery"]) for row in rows] == [("roof", "7"), ("roof", "gate"), ("roof", "hall")]
    table = caplog.text.partition("TOY by camera")[2]
    assert all(f"│ {name} " in table for name in ("roof", "7", "gate", "hall")) and "camera 0" not in table


def test_thresholds_are_written_with_the_roc_and_removed_without(tmp_path, caplog):
    cfg = CFG.clone()
    cfg.merge_from_list(["TEST.ROC.ENABLED", True, "TEST.BREAKDOWN", ["camera"]])
    with caplog.at_level(logging.INFO):
        found = evaluate_protocols(cfg, CountingModel(), two_protocols(), build_loader, tmp_path)
    thresholds = json.loads((tmp_path / "thresholds.json").read_text())
    assert list(thresholds) == ["TOY", "TOY_AG"] and "TOY_AG: thresholds of the distance" in caplog.text
    assert thresholds["TOY"]["wrong_pairs"] == 6 * 15
    assert thresholds["TOY"]["points"][-1]["threshold"] == found["TOY"]["threshold"]
    evaluate_protocols(CFG, CountingModel(), two_protocols(), build_loader, tmp_path)
    assert not (tmp_path / "thresholds.json").exists() and not (tmp_path / "breakdown.json").exists()


def test_two_runs_write_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        evaluate_protocols(CFG, CountingModel(), two_protocols(), build_loader, tmp_path / folder)
    for name in ("results.json", "results.csv", "intervals.json", "ranked_lists.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_queries_that_are_not_counted_are_logged(tmp_path, caplog):
    data = two_protocols()[0]
    data.query.append(PersonImage("stranger.jpg", 50, 0))
    with caplog.at_level(logging.INFO):
        evaluate_protocols(CFG, CountingModel(), [data], build_loader, tmp_path)
    assert "TOY: 1 of 7 queries have no match under another camera" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        evaluate_protocols(CFG, CountingModel(), two_protocols()[:1], build_loader, tmp_path)
    assert "have no match under another camera" not in caplog.text


def test_figures_that_depend_on_the_order_of_equal_distances_are_logged(tmp_path, caplog):
    query, gallery = [PersonImage("q.jpg", 0, 0)], [PersonImage("a.jpg", 0, 1), PersonImage("b.jpg", 1, 1)]

    class Same(CountingModel):
        def forward(self, batch):
            return torch.ones(len(batch["img_paths"]), 4)

    evaluate_protocols(
        CFG, Same(), [SimpleNamespace(name="TIED", query=query, gallery=gallery)], build_loader, tmp_path
    )
    assert (
        "TIED: many distances are equal; another order among them could give an mAP from 50.00 to 100.00" in caplog.text
    )


@pytest.mark.parametrize(("roc", "plots"), [(True, False), (False, True), (False, False)])
def test_a_protocol_without_wrong_pairs_is_refused_where_they_are_needed(tmp_path, roc, plots):
    images = [PersonImage(f"{camera}_{i}.jpg", 0, camera) for camera in (0, 1) for i in range(3)]
    data, model = SimpleNamespace(name="ONE", query=images[:3], gallery=images[3:]), CountingModel()
    cfg = with_values(CFG, {"TEST.ROC.ENABLED": roc, "TEST.PLOTS": plots})
    if roc or plots:
        with pytest.raises(ConfigError, match="ONE: TEST.ROC and TEST.PLOTS need pairs of two people"):
            evaluate_protocols(cfg, model, [data], build_loader, tmp_path)
        assert not model.seen
    else:
        assert evaluate_protocols(cfg, model, [data], build_loader, tmp_path)["ONE"]["valid_queries"] == 3


@pytest.mark.parametrize("side", ["query", "gallery"])
def test_empty_protocol_is_refused_before_the_model_runs(side, tmp_path):
    data, model = two_protocols()[0], CountingModel()
    setattr(data, side, [])
    with pytest.raises(ValueError, match=f"TOY: the {side} is empty"):
        evaluate_protocols(CFG, model, [data], build_loader, tmp_path)
    assert not model.seen


def test_single_camera_protocol_is_refused_before_the_model_runs(tmp_path):
    one = [PersonImage(f"{p}.jpg", p % 3, 0) for p in range(9)]
    model = CountingModel()
    data = SimpleNamespace(name="ONE_CAMERA", query=one[:3], gallery=one[3:])
    with pytest.raises(NoValidQueryError, match="ONE_CAMERA: none of the 3 queries.*own camera"):
        evaluate_protocols(CFG, model, [data], build_loader, tmp_path)
    assert not model.seen and not list(tmp_path.iterdir())


class WithBadImages(list):
    """A loader that skips some images."""

    def __init__(self, images, bad):
        super().__init__(build_loader(CFG, [image for image in images if image.path not in bad]))
        self.skipped = {image.path: "cut off" for image in images if image.path in bad}


def test_images_that_were_skipped_are_left_out_and_counted(tmp_path, caplog):
    bad = {"0_0.jpg", "0_1.jpg", "3_2.jpg"}
    whole = two_protocols()
    found = evaluate_protocols(CFG, CountingModel(), whole, lambda _, images: WithBadImages(images, bad), tmp_path)
    less = [
        SimpleNamespace(
            name=data.name,
            query=[image for image in data.query if image.path not in bad],
            gallery=[image for image in data.gallery if image.path not in bad],
        )
        for data in whole
    ]
    expected = evaluate_protocols(CFG, CountingModel(), less, build_loader, tmp_path / "less")
    assert found == {name: {**figures, "missing_images": 3} for name, figures in expected.items()}
    assert json.loads((tmp_path / "results.json").read_text()) == found
    assert "3 images could not be read (0_0.jpg: cut off; " in caplog.text
    assert "TOY_AG: 3 of its images are missing" in caplog.text


def test_without_its_queries_a_protocol_is_an_error(tmp_path):
    bad = {image.path for image in two_protocols()[0].query}
    with pytest.raises(ValueError, match="TOY: the query is empty"):
        evaluate_protocols(
            CFG, CountingModel(), two_protocols(), lambda _, images: WithBadImages(images, bad), tmp_path
        )


def test_without_any_image_the_error_says_why(tmp_path):
    bad = {image.path for data in two_protocols() for image in (*data.query, *data.gallery)}
    with pytest.raises(ValueError, match="no image could be embedded; 24 images could not be read .*cut off"):
        evaluate_protocols(
            CFG, CountingModel(), two_protocols(), lambda _, images: WithBadImages(images, bad), tmp_path
        )


def _evaluate_as(rank, world_size, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    model = CountingModel()
    results = evaluate_protocols(CFG, model, two_protocols(), build_loader, folder / "two")
    (folder / f"rank{rank}.json").write_text(json.dumps([results, model.seen]))
    dist.destroy_process_group()


def test_two_processes_share_the_work_and_agree_with_one(warm_ranks, tmp_path):
    mp.spawn(_evaluate_as, args=(2, tmp_path), nprocs=2)
    evaluate_protocols(CFG, CountingModel(), two_protocols(), build_loader, tmp_path / "one")
    (first, seen0), (second, seen1) = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and len(seen0) == len(seen1) == 12 and not set(seen0) & set(seen1)
    for name in ("results.json", "ranked_lists.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
