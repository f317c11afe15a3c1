"""Gains over the first of several models: means, spread over seeds, pairs, and a plot over ratios."""

import json

import pytest
from PIL import Image

from fastreid.evaluation.gains import Gains, Result, mean_and_spread, refuse_to_lose
from fastreid.utils.errors import UserError

NAMES = ["first", "second"]


def result(name, seed, value, setting="few_shot", ratio=0.1):
    return Result(setting, ratio, name, seed, {"mAP": value, "Rank-1": value + 10})


# With seeds 1, 2 and 3; the third of the second one is not finished.
RESULTS = [
    *(result("first", seed, value) for seed, value in [(1, 10.0), (2, 14.0), (3, 90.0)]),
    *(result("second", seed, value) for seed, value in [(1, 15.0), (2, 17.0)]),
    result("first", 1, 40.0, "supervised", None),
    result("second", 1, 39.0, "supervised", None),
]


def test_means_have_their_standard_deviation():
    assert mean_and_spread([10.0, 14.0]) == "12.0 ± 2.8" and mean_and_spread([3.25], "+") == "+3.2"
    assert mean_and_spread([]) == "–"


def test_nearly_equal_ratios_have_rows_of_different_names():
    rows = {result("first", 1, 1.0, ratio=ratio).row for ratio in (0.7500001, 0.7500002, 0.75)}
    assert rows == {"few_shot 75.00001 %", "few_shot 75.00002 %", "few_shot 75 %"}


def test_gains_are_paired_by_seed():
    gains = Gains(RESULTS, NAMES)
    assert gains.gains("few_shot", 0.1, "second", "mAP") == [5.0, 3.0]
    title, _, few, whole = gains.table().splitlines()
    assert "gain of second" in title and "gain of first" not in title
    assert [cell.strip() for cell in few.strip("|").split("|")] == [
        "few_shot 10 %",
        "38.0 ± 45.1 / 48.0 ± 45.1",
        "16.0 ± 1.4 / 26.0 ± 1.4",
        "+4.0 ± 1.4 / +4.0 ± 1.4",
    ]
    assert [cell.strip() for cell in whole.strip("|").split("|")][-1] == "-1.0 / -1.0"


def test_the_summary_has_values_and_moments():
    found = {(row["setting"], row["backbone"]): row["mAP"] for row in Gains(RESULTS, NAMES).summary()}
    assert found["few_shot", "second"] == {
        "values": [15.0, 17.0],
        "mean": 16.0,
        "spread": pytest.approx(2**0.5),
        "gain_mean": 4.0,
        "gain_spread": pytest.approx(2**0.5),
    }
    assert found["supervised", "second"]["spread"] is None
    missing = Gains(RESULTS[:1], NAMES)
    assert missing.summary()[1]["mAP"]["mean"] is None and "–" in missing.table()


def test_a_plot_is_drawn_where_there_are_ratios(tmp_path):
    few = [result(name, 1, 10.0 * ratio, ratio=ratio) for name in NAMES for ratio in (0.1, 0.5)]
    assert Gains([*few, *RESULTS[-2:]], NAMES).draw(tmp_path / "ratios.png", "supervised")
    assert Image.open(tmp_path / "ratios.png").size[0] > 500
    assert not Gains(RESULTS[-2:], NAMES).draw(tmp_path / "none.png") and not (tmp_path / "none.png").exists()


def test_all_training_data_is_drawn_at_100_percent():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    Gains(RESULTS, NAMES)._draw_panel(axes, "few_shot", "mAP", "supervised")
    drawn = [line.get_xydata().tolist() for line in axes.get_lines() if line.get_marker() == "o"]
    assert drawn == [[[10.0, 38.0], [100.0, 40.0]], [[10.0, 16.0], [100.0, 39.0]]]


def test_results_of_more_runs_are_not_replaced(tmp_path):
    file = tmp_path / "results.json"
    keys = [(one.setting, one.ratio, one.name, one.seed) for one in RESULTS]
    refuse_to_lose(file, keys[:1])
    file.write_text(json.dumps({"runs": [vars(one) for one in RESULTS]}))
    refuse_to_lose(file, [*keys, ("more", None, "first", 1)])
    with pytest.raises(UserError, match="has results of 1 runs that .* such as few_shot 10 %, first, seed 1. Nothing"):
        refuse_to_lose(file, keys[1:])
    file.write_text("{")
    refuse_to_lose(file, [])
