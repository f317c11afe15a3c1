"""The batch is fitted to the training people: SOLVER.FIT_BATCH."""

import logging

import pytest

from fastreid.config import ConfigError, get_cfg
from fastreid.data.fit_batch import with_fitted_batch
from fastreid.utils import comm


def config(*words):
    cfg = get_cfg()
    sampler = ("DATALOADER.SAMPLER_TRAIN", "BalancedIdentitySampler")
    cfg.merge_from_list(["SOLVER.FIT_BATCH", "True", "SOLVER.IMS_PER_BATCH", "32", *sampler, *words])
    return cfg


def fitted(people: int, *words: str) -> int:
    return with_fitted_batch(config(*words), [*range(people)] * 3).SOLVER.IMS_PER_BATCH


def test_it_is_lowered_to_the_people_there_are(caplog):
    with caplog.at_level(logging.INFO):
        assert fitted(5) == 20
    assert "SOLVER.IMS_PER_BATCH is 20 instead of 32: 4 images of each of 5 training people" in caplog.text
    assert fitted(8) == fitted(800) == 32
    assert fitted(5, "SOLVER.FIT_BATCH", "False") == 32


def test_single_images_fill_any_batch():
    assert fitted(5, "DATALOADER.SAMPLER_TRAIN", "TrainingSampler") == 32


def test_it_divides_over_processes_and_passes(monkeypatch):
    assert fitted(5, "SOLVER.ACCUMULATION_STEPS", "2") == 16
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    assert fitted(7) == 24
    assert fitted(2) == 32  # it cannot be shared; the sampler says so


def test_labels_that_the_model_makes_cannot_be_counted():
    with pytest.raises(ConfigError, match="FIT_BATCH counts the training people"):
        with_fitted_batch(config(), [-1] * 9, needs_labels=False)
