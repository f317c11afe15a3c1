"""Sampling noise: the same for an image whatever its batch."""

import hashlib

import pytest
import torch

from fastreid.modeling.diffusion import OptionError
from fastreid.modeling.diffusion.noise import NoiseSource
from fastreid.utils import comm
from tests.modeling import toys

SHAPE = (4, 8, 6)


def rows_of(batch, indices):
    return {
        key: value[indices] if torch.is_tensor(value) else [value[i] for i in indices] for key, value in batch.items()
    }


@pytest.mark.parametrize("kind", ["shared", "image", "name", "zeros"])
def test_noise_does_not_depend_on_the_batch(kind):
    batch, order = toys.batch(), [5, 2]
    whole = NoiseSource(kind, 3, SHAPE).draw(batch, rows=2, steps=3)
    part = NoiseSource(kind, 3, SHAPE).draw(rows_of(batch, order), rows=2, steps=3)
    assert whole.shape == (3, 8, 2, *SHAPE)
    assert torch.equal(whole[:, order], part)


def test_shared_noise_is_one_draw_per_view():
    noise = NoiseSource("shared", 3, SHAPE).draw(toys.batch(), rows=2, steps=2)
    assert torch.equal(noise[:, 0], noise[:, 7]) and not torch.equal(noise[:, :, 0], noise[:, :, 1])
    assert noise.std().item() == pytest.approx(1, abs=0.1)


def noise_named(name, steps=2):
    """As it is defined: a generator seeded with the first 7 bytes of a hash of "seed/key/row"."""
    seed = int.from_bytes(hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=7).digest(), "little")
    return torch.randn(steps, *SHAPE, generator=torch.Generator().manual_seed(seed))


def test_figures_of_earlier_versions_can_be_repeated():
    """Published figures depend on these very draws."""
    batch = toys.batch()
    batch["img_paths"] = [f"somewhere/{number}\udce9.jpg" for number in range(8)]
    batch["images"] = batch["images"].clone()
    batch["images"][5] = 255
    drawn = {kind: NoiseSource(kind, 3, SHAPE).draw(batch, rows=2, steps=2) for kind in ("shared", "image", "name")}
    pixels = bytes([255]) * batch["images"][5].numel()
    assert torch.equal(drawn["shared"][:, 5, 1], noise_named("3/shared/1"))
    assert torch.equal(
        drawn["image"][:, 5, 1], noise_named(f"3/{hashlib.blake2b(pixels, digest_size=16).hexdigest()}/1")
    )
    assert torch.equal(drawn["name"][:, 5, 1], noise_named("3/5\udce9.jpg/1"))


def test_fresh_noise_is_another_one_in_each_process(monkeypatch):
    monkeypatch.setattr(comm, "get_rank", lambda: 2)
    noise = NoiseSource("fresh", 3, SHAPE).draw(toys.batch(), rows=1, steps=2)
    assert torch.equal(noise, torch.randn(2, 8, 1, *SHAPE, generator=torch.Generator().manual_seed(3 + 2)))


@pytest.mark.parametrize("kind", ["image", "name", "fresh"])
def test_images_differ(kind):
    noise = NoiseSource(kind, 3, SHAPE).draw(toys.batch(), rows=1, steps=1)
    assert not torch.equal(noise[:, 0], noise[:, 1])


def test_a_seed_is_a_draw_and_fresh_noise_runs_on():
    batch = toys.batch()
    assert not torch.equal(
        NoiseSource("shared", 3, SHAPE).draw(batch, 1, 1), NoiseSource("shared", 4, SHAPE).draw(batch, 1, 1)
    )
    fresh = NoiseSource("fresh", 3, SHAPE)
    assert not torch.equal(fresh.draw(batch, 1, 1), fresh.draw(batch, 1, 1))


def test_an_unknown_kind_is_explained():
    with pytest.raises(OptionError, match="did you mean 'shared'"):
        NoiseSource("share", 3, SHAPE)
