"""TEST.EXPECTED_RESULTS: which rows are legal, and how results are compared with them."""

import logging
import math

import numpy as np
import pytest

from fastreid.config import ConfigError, get_cfg
from fastreid.engine import launch
from fastreid.evaluation import Scoring, check_expected_results, expected_figures, score_features, verify_results
from fastreid.evaluation.expected import UnexpectedResultsError
from fastreid.evaluation.roc import ROC_FIGURES
from fastreid.evaluation.scoring import FIGURES
from fastreid.utils import comm

RESULTS = {"CARGO": {"mAP": 57.3, "Rank-1": 72.0, "valid_queries": 200}, "CARGO_AG": {"mAP": 51.8}}


def cfg_of(*rows, tests=("CARGO", "CARGO_AG"), **keys):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = "logs/mine"
    cfg.DATASETS.TESTS = tests
    cfg.TEST.EXPECTED_RESULTS = list(rows)
    cfg.merge_from_list([word for key, value in keys.items() for word in (key.replace("__", "."), value)])
    return cfg


def test_the_names_of_figures_are_those_of_results():
    rng = np.random.default_rng(0)
    people = np.arange(8) % 4
    labels = people, people, np.zeros(8, dtype=int), np.ones(8, dtype=int)
    metrics = score_features(rng.standard_normal((8, 4)), rng.standard_normal((8, 4)), *labels, Scoring(roc=True))
    assert list(metrics.metrics) == [*FIGURES, *ROC_FIGURES]


# Rows


def test_rows_of_the_command_line_and_of_files(tmp_path):
    (tmp_path / "a.yml").write_text("TEST: {EXPECTED_RESULTS: [[CARGO, mAP, 57.3, 3], [CARGO_AG, Rank-1, 61, 0.5]]}")
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "a.yml"))
    assert [(f.protocol, f.figure, f.value, f.tolerance) for f in expected_figures(cfg)] == [
        ("CARGO", "mAP", 57.3, 3),
        ("CARGO_AG", "Rank-1", 61, 0.5),
    ]
    cfg.merge_from_list(["TEST.EXPECTED_RESULTS", "[('CARGO', 'mAP', 1, 2)]"])
    assert [f.value for f in expected_figures(cfg)] == [1]


@pytest.mark.parametrize(
    "row",
    [
        "CARGO",
        7,
        [],
        ["CARGO", "mAP", 57.3],
        ["CARGO", "mAP", 57.3, 3.0, 1],
        ["CARGO", "mAP", "57.3", 3.0],
        ["CARGO", "mAP", True, 3.0],
        ["CARGO", "mAP", math.nan, 3.0],
        ["CARGO", "mAP", 57.3, -1.0],
        ["CARGO", "mAP", 57.3, math.inf],
        ["", "mAP", 57.3, 3.0],
        ["CARGO", 1, 57.3, 3.0],
        [["CARGO"], "mAP", 57.3, 3.0],
    ],
    ids=repr,
)
def test_a_malformed_row_is_named(row):
    with pytest.raises(ConfigError, match=r"^TEST\.EXPECTED_RESULTS, row 2 must be \[protocol, figure, value, toler"):
        expected_figures(cfg_of(["CARGO", "mAP", 57.3, 3.0], row))


@pytest.mark.parametrize("to_verify", [True, False])
def test_a_figure_that_does_not_exist_is_named(to_verify):
    said = r"^TEST\.EXPECTED_RESULTS, row 1: unknown figure 'map'; did you mean 'mAP'\? Legal: Rank-1, .*threshold$"
    with pytest.raises(ConfigError, match=said):
        check_expected_results(cfg_of(["CARGO", "map", 57.3, 3.0]), to_verify=to_verify)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (["CARGO_GA", "mAP", 57.3, 3.0], r"row 1: unknown protocol 'CARGO_GA'; did you mean 'CARGO_AG'.*Legal: CARGO,"),
        (["CARGO", "EER", 57.3, 3.0], r"row 1: EER is computed only with TEST\.ROC\.ENABLED True"),
    ],
)
def test_what_the_run_cannot_have_is_an_error_only_if_it_is_verified(row, said):
    check_expected_results(cfg_of(row), to_verify=False)  # other DATASETS.TESTS on the command line are no mistake
    with pytest.raises(ConfigError, match=said):
        check_expected_results(cfg_of(row), to_verify=True)


def test_verification_figures_can_be_expected():
    check_expected_results(cfg_of(["CARGO", "EER", 9.0, 1.0], TEST__ROC__ENABLED=True), to_verify=True)


def test_there_must_be_something_to_verify():
    check_expected_results(cfg_of(), to_verify=False)
    with pytest.raises(ConfigError, match=r"TEST\.EXPECTED_RESULTS is empty, so there is nothing to verify"):
        check_expected_results(cfg_of(), to_verify=True)


# The comparison


def test_results_within_their_tolerance_are_logged(caplog):
    rows = [["CARGO", "mAP", 57.0, 0.5], ["CARGO_AG", "mAP", 50.8, 1.0], ["CARGO", "valid_queries", 200, 0]]
    with caplog.at_level(logging.INFO, "fastreid"):
        verify_results(cfg_of(*rows), RESULTS)
    (record,) = caplog.records
    table = [[cell.strip() for cell in line.split("│")[1:-1]] for line in record.getMessage().splitlines()]
    assert record.levelno == logging.INFO
    assert [line for line in table if line] == [
        ["Protocol", "Figure", "Expected", "Measured", "Verdict"],
        ["CARGO", "mAP", "57 ± 0.5", "57.30", "ok"],
        ["CARGO_AG", "mAP", "50.8 ± 1", "51.80", "ok"],  # the limit itself
        ["CARGO", "valid_queries", "200 ± 0", "200", "ok"],
    ]


def test_other_results_end_with_a_sentence_after_the_table(caplog):
    rows = [["CARGO", "mAP", 60.0, 2.5], ["CARGO", "Rank-1", 72.0, 0], ["CARGO_AA", "mAP", 50.8, 1.0]]
    said = (
        "2 of the 3 figures in TEST.EXPECTED_RESULTS are missing or not within their tolerance: "
        "CARGO mAP is 57.30, expected 60 ± 2.5; CARGO_AA mAP is missing, expected 50.8 ± 1. "
        "All results are in logs/mine/results.json"
    )
    with pytest.raises(UnexpectedResultsError) as error:
        verify_results(cfg_of(*rows), RESULTS)
    assert str(error.value) == said
    (record,) = caplog.records
    verdicts = [line.split("│")[-2].strip() for line in record.getMessage().splitlines() if "│" in line]
    assert record.levelno == logging.ERROR and verdicts == ["Verdict", "off", "ok", "missing"]


@pytest.mark.parametrize("measured", [math.nan, math.inf, 53.31, 61.29])
def test_off_on_either_side(measured):
    with pytest.raises(UnexpectedResultsError, match="1 of the 1"):
        verify_results(cfg_of(["CARGO", "mAP", 57.3, 3.98]), {"CARGO": {"mAP": measured}})


def test_a_long_list_is_cut():
    with pytest.raises(UnexpectedResultsError, match=r"missing, expected 4 ± 0; and 2 more\. All"):
        verify_results(cfg_of(*(["CARGO", "mINP", value, 0] for value in range(7))), RESULTS)


def verify_in_two_processes(folder):
    """Only the main process has results, as with an evaluation of fast-reid."""
    said = []
    for value in (57.0, 40.0):
        try:
            verify_results(cfg_of(["CARGO", "mAP", value, 1.0]), RESULTS if comm.is_main_process() else {})
            said.append("ok")
        except UnexpectedResultsError as error:
            said.append(str(error))
    (folder / str(comm.get_rank())).write_text("\n".join(said))


def test_two_processes_decide_alike(warm_ranks, tmp_path):
    launch(verify_in_two_processes, 2, args=(tmp_path,), device="cpu")
    first, second = ((tmp_path / rank).read_text() for rank in "01")
    assert first == second
    assert first.startswith("ok\n1 of the 1 figures") and "CARGO mAP is 57.30, expected 40 ± 1. All" in first
