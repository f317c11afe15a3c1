"""fast-reid's evaluator interface gives the figures of the one definition."""

import json

import pytest
import torch

from fastreid.config import get_cfg
from fastreid.evaluation import ReidEvaluator, evaluate_protocols, print_csv_format
from tests.evaluation.toys import CountingModel, build_loader, two_protocols


def cfg(*tests):
    made = get_cfg()
    made.merge_from_list(["MODEL.DEVICE", "cpu", "TEST.METRIC", "euclidean", "DATASETS.TESTS", tests])
    return made


def feed(evaluator, data):
    model = CountingModel().eval()
    with torch.no_grad():
        for batch in build_loader(None, [*data.query, *data.gallery]):
            evaluator.process(batch, model(batch))
    return evaluator.evaluate()


def test_same_figures_as_the_protocols_way(tmp_path):
    data = two_protocols()[0]
    evaluator = ReidEvaluator(cfg("TOY"), len(data.query), tmp_path)
    expected = evaluate_protocols(cfg(), CountingModel(), [data], build_loader, tmp_path / "protocols")
    assert feed(evaluator, data) == expected["TOY"]
    assert json.loads((tmp_path / "results.json").read_text()) == expected
    evaluator.reset()
    assert feed(evaluator, data) == expected["TOY"]


@pytest.mark.parametrize("num_query", [0, 24, 99])
def test_split_must_leave_both_sides(num_query):
    with pytest.raises(ValueError, match=f"num_query={num_query}"):
        feed(ReidEvaluator(cfg("TOY"), num_query), two_protocols()[0])


def test_nothing_seen_is_an_error():
    with pytest.raises(ValueError, match="among 0 images"):
        ReidEvaluator(cfg("TOY"), 3).evaluate()


def test_one_file_for_several_protocols_is_refused(tmp_path):
    with pytest.raises(ValueError, match="names \\('A', 'B'\\)"):
        ReidEvaluator(cfg("A", "B"), 3, tmp_path)


def test_table_needs_results():
    with pytest.raises(ValueError, match="no results"):
        print_csv_format({})


def test_everything_asked_for_is_written(tmp_path):
    data, made = two_protocols()[0], cfg("TOY")
    made.merge_from_list(["TEST.BREAKDOWN", ["view"], "TEST.PLOTS", True])
    with pytest.raises(ValueError, match="TEST.PLOTS needs an output_dir"):
        ReidEvaluator(made, 6)
    feed(ReidEvaluator(made, len(data.query), tmp_path), data)
    rows = json.loads((tmp_path / "breakdown.json").read_text())["TOY"]["view"]
    assert {row["gallery"] for row in rows} == {"aerial", "ground"}
    assert (tmp_path / "plots/cmc.png").stat().st_size > 1000
