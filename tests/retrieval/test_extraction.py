"""Descriptors are computed once, in the order of the images, and the model's mode is restored."""

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fastreid.retrieval import extraction
from fastreid.retrieval.extraction import FeatureStore, mirrored, my_share
from fastreid.utils import comm
from fastreid.utils import progress as progress_module
from fastreid.utils.errors import ArgumentError
from tests.evaluation.toys import CFG, CountingModel, build_loader, two_protocols


@pytest.fixture
def images():
    return two_protocols()[0].gallery


def test_rows_follow_the_images(images):
    model, store = CountingModel(), FeatureStore()
    rows = store.extract(model, build_loader(CFG, images))
    assert len(store) == len(rows) == len(images) and images[0].path in store
    backwards = images[::-1]
    assert torch.equal(store.select(backwards), torch.stack([rows[i.path] for i in backwards]))
    assert store.select(images).dtype == torch.float32


def test_the_time_is_logged(images, caplog, monkeypatch):
    clock = iter([100.0, 102.0])
    monkeypatch.setattr(extraction, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    with caplog.at_level(logging.INFO, logger=extraction.__name__):
        FeatureStore().extract(CountingModel(), build_loader(CFG, images))
    assert f"{len(images)} descriptors in 2.0 s ({len(images) / 2:.0f} images/s)" in caplog.messages


def test_modes_of_modules_are_restored_even_after_an_error(images):
    model = CountingModel().train()
    model.frozen.eval()
    FeatureStore().extract(model, build_loader(CFG, images))
    assert model.training and model.norm.training and not model.frozen.training
    with pytest.raises(KeyError):
        FeatureStore().extract(model, [{"img_paths": ["x"]}])
    assert model.training and not model.frozen.training


def test_further_views_are_mirrored_with_the_images():
    images, view = torch.rand(2, 3, 4, 2), torch.rand(2, 3, 8, 4)
    batch = {"images": images, "small_images": view, "targets": torch.tensor([1, 2]), "img_paths": ["a", "b"]}
    flipped = mirrored(batch)
    assert torch.equal(flipped["images"], images.flip(-1)) and torch.equal(flipped["small_images"], view.flip(-1))
    assert flipped["targets"] is batch["targets"] and flipped["img_paths"] == ["a", "b"]


class Fixed(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, batch):
        return self.output


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(2), r"descriptors \[3, D\] in eval mode, got \[2\]"),
        (torch.zeros(2, 4), r"\[3, D\] in eval mode, got \[2, 4\]"),
        ({"loss": torch.zeros(())}, "got dict"),
        (torch.full((3, 4), float("nan")), "0_1.jpg is not finite"),
    ],
)
def test_wrong_outputs_are_named(output, message, images):
    with pytest.raises(ValueError, match=message):
        FeatureStore().extract(Fixed(output), build_loader(CFG, images))


class NoBatches:
    """A loader that could read none of its images."""

    skipped = {"a.jpg": "truncated"}

    def __iter__(self):
        return iter(())

    def __len__(self):
        return 0


def test_no_readable_image_raises_but_a_store_with_rows_is_kept(images):
    store = FeatureStore()
    with pytest.raises(ArgumentError, match=r"no image could be embedded; .*a\.jpg"):
        store.extract(CountingModel(), NoBatches())
    store = FeatureStore()
    store.extract(CountingModel(), build_loader(CFG, images))
    assert len(store.extract(CountingModel(), NoBatches())) == len(images)
    assert store.skipped == NoBatches.skipped


def test_shares_cover_all_images_and_are_never_empty(images, monkeypatch):
    for world_size in (1, 2, 5, 100):
        monkeypatch.setattr(comm, "get_world_size", lambda size=world_size: size)
        shares = []
        for rank in range(world_size):
            monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
            shares.append(my_share(images))
        assert all(shares) and set(sum(shares, [])) == set(images)
    with pytest.raises(ValueError, match="no images"):
        my_share([])


def test_progress_logs_the_time_left_without_a_terminal(caplog, monkeypatch):
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(progress_module.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(progress_module.sys.stderr, "isatty", lambda: False, raising=False)
    with caplog.at_level(logging.INFO):
        assert list(progress_module.progress("abcdef", 6, "working")) == list("abcdef")
    assert caplog.messages == ["working: 2/6, 24 s left", "working: 4/6, 12 s left"]


def test_features_are_computed_inside_the_context_and_come_out_in_float32():
    class Linear(torch.nn.Module):
        def forward(self, batch):
            seen.append(torch.is_autocast_enabled("cpu"))
            return batch["images"].flatten(1) @ torch.ones(batch["images"][0].numel(), 2)

    seen = []
    batch = {"images": torch.ones(1, 3, 2, 2), "img_paths": ["a"]}
    rows = FeatureStore().extract(Linear(), [batch], lambda: torch.autocast("cpu", torch.bfloat16))
    assert seen == [True] and rows["a"].dtype == torch.float32
