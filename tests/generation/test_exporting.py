"""What the stage `export` reads for the data card beside the pictures."""

import json

import pytest

from fastreid.config import ConfigError, get_cfg
from fastreid.generation.exporting import _by_training


def config(path):
    cfg = get_cfg()
    cfg.DIFFPERSON.CARD.RESULTS = str(path)
    return cfg


def test_figures_of_a_model_that_was_trained_on_the_pictures(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"Market1501": {"mAP": 12.34567, "Rank-1": 20, "mINP": 3}}))
    (figures,) = _by_training(config(path)).values()
    assert figures == {"mAP on Market1501": 12.3457, "Rank-1 on Market1501": 20.0}
    assert _by_training(config("")) == {}


@pytest.mark.parametrize(
    "content", [None, "{", "[1]", '{"a": 3}', '{"a": {"mAP": 1}}', '{"a": {"mAP": "x", "Rank-1": 2}}']
)
def test_another_file_is_refused(content, tmp_path):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match="DIFFPERSON.CARD.RESULTS .* is no results.json of an evaluation"):
        _by_training(config(path))
