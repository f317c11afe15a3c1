"""Evaluating several protocols: shared images once, files complete, mistakes told beforehand."""

import csv
import json
import logging
from types import SimpleNamespace

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from fastreid.evaluation import evaluate_protocols
from fastreid.evaluation.matching import NoValidQueryError
from fastreid.structures import PersonImage
from tests.evaluation.toys import CFG, CountingModel, build_loader, two_protocols

NAMES = ["Rank-1", "Rank-5", "Rank-10", "mAP", "mINP", "metric", "valid_queries"]


def test_each_shared_image_is_embedded_once(tmp_path):
    model = CountingModel()
    results = evaluate_protocols(CFG, model, two_protocols(), build_loader, tmp_path)
    assert sorted(model.seen) == sorted(set(model.seen)) and len(model.seen) == 24
    assert list(results) == ["TOY", "TOY_AG"]
    assert results["TOY"]["valid_queries"] == 6
    assert results["TOY_AG"]["mAP"] != results["TOY"]["mAP"]  # other camera rule, other figure


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
    low, high = json.loads((tmp_path / "intervals.json").read_text())["TOY"]["mAP"]
    assert low <= results["TOY"]["mAP"] <= high


def test_two_runs_write_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        evaluate_protocols(CFG, CountingModel(), two_protocols(), build_loader, tmp_path / folder)
    for name in ("results.json", "results.csv", "intervals.json", "ranked_lists.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_queries_that_are_not_counted_are_told(tmp_path, caplog):
    data = two_protocols()[0]
    data.query.append(PersonImage("stranger.jpg", 50, 0))
    with caplog.at_level(logging.INFO):
        evaluate_protocols(CFG, CountingModel(), [data], build_loader, tmp_path)
    assert "TOY: 1 of 7 queries have no match under another camera" in caplog.text


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


def _evaluate_as(rank, world_size, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    model = CountingModel()
    results = evaluate_protocols(CFG, model, two_protocols(), build_loader, folder / "two")
    (folder / f"rank{rank}.json").write_text(json.dumps([results, model.seen]))
    dist.destroy_process_group()


def test_two_processes_share_the_work_and_agree_with_one(tmp_path):
    mp.spawn(_evaluate_as, args=(2, tmp_path), nprocs=2)
    evaluate_protocols(CFG, CountingModel(), two_protocols(), build_loader, tmp_path / "one")
    (first, seen0), (second, seen1) = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and len(seen0) == len(seen1) == 12 and not set(seen0) & set(seen1)
    for name in ("results.json", "ranked_lists.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
