"""Seeds, and random states that go into a checkpoint and come back."""

import random

import numpy as np
import torch

from fastreid.utils.env import collect_env, devices, rng_state, seed_everything, set_rng_state, versions


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_same_seed_same_numbers():
    seed_everything(5)
    first = draw()
    seed_everything(5)
    assert draw() == first
    seed_everything(6)
    assert draw() != first


def test_states_survive_a_weights_only_file(tmp_path):
    seed_everything(1)
    np.random.normal()  # leaves a cached second draw
    draw()
    torch.save(rng_state(), tmp_path / "rng.pth")
    expected = (draw(), random.gauss(0, 1), np.random.normal())
    seed_everything(2)
    set_rng_state(torch.load(tmp_path / "rng.pth", weights_only=True))
    assert (draw(), random.gauss(0, 1), np.random.normal()) == expected


def test_environment_names_what_matters():
    text = collect_env()
    assert torch.__version__ in text and "numpy" in text and "CUDA" in text


def test_versions_and_devices_are_plain():
    found = versions()
    assert found["torch"] == str(torch.__version__) and found["fastreid"] and type(found["torch"]) is str
    assert dict(devices())["torch threads"] == str(torch.get_num_threads())


def test_states_of_gpus_that_are_not_here_are_told(caplog):
    set_rng_state(rng_state() | {"cuda": [torch.get_rng_state()] * 40})
    assert "random states of 40 GPUs" in caplog.text
