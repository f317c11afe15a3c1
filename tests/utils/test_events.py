"""Means between two writes, and results handed over once."""

from fastreid.utils.events import EventStorage


def test_means_start_afresh_after_each_pop():
    storage = EventStorage()
    storage.put_scalars(loss=1.0, time=0.5)
    storage.put_scalars(loss=3.0)
    assert storage.pop_means() == {"loss": 2.0, "time": 0.5}
    storage.put_scalars(loss=7)
    assert storage.pop_means() == {"loss": 7.0}
    assert storage.pop_means() == {}


def test_results_become_flat_and_are_given_once():
    storage = EventStorage()
    storage.put_results({"CARGO": {"mAP": 50.0}, "CARGO_AG": {"mAP": 40.0}})
    assert storage.pop_results() == {"CARGO/mAP": 50.0, "CARGO_AG/mAP": 40.0}
    assert storage.pop_results() == {}
