"""The diffusion branch: its loss, and latents that are stored."""

import pytest
import torch
from torch.nn import functional as F

from fastreid.config import ConfigError
from fastreid.data.build import build_feature_loader
from fastreid.methods.dcac.feedback import VIEW
from fastreid.modeling.array_cache import FillCache
from fastreid.structures import Condition
from fastreid.utils.draws import BatchDraws
from fastreid.utils.errors import ArgumentError
from tests.methods.dcac.conftest import dcac_cfg
from tests.tiny import make_people


def inputs(model, batch):
    logits, features = torch.randn(8, 5), F.normalize(torch.randn(8, model.heads.weight.shape[1]))
    return logits, features, batch["targets"], None, batch


@pytest.mark.parametrize("samples", [True, False])
def test_the_loss_is_that_of_the_noise(make_dcac, batch, samples):
    model = make_dcac("DCAC.SD.SAMPLE_POSTERIOR", samples)
    feedback, given = model.feedback, inputs(model, batch)
    torch.manual_seed(3)
    loss = feedback(*given)
    torch.manual_seed(3)
    draws = BatchDraws.of(batch, torch.device("cpu"))
    moments = feedback.autoencoder.moments(batch[VIEW] / 127.5 - 1)
    noise = draws.normal(4, 16, 16)
    latents = feedback.autoencoder.latents(moments, draws.normal(4, 16, 16) if samples else None)
    times = feedback.schedule.timesteps_of(draws.uniform())
    noisy = feedback.schedule.add_noise(latents, noise, times)
    prediction = feedback.denoiser(noisy, times, Condition(feedback.condition(*given[:-1])))
    torch.testing.assert_close(loss, F.mse_loss(prediction, noise))
    assert not latents.requires_grad


@pytest.fixture
def people(tmp_path, monkeypatch, sd_folder):
    """The config of a run on images of noise, in a folder of its own."""
    make_people(tmp_path)
    monkeypatch.chdir(tmp_path)
    cfg = dcac_cfg(sd_folder, "DCAC.SD.LATENT_CACHE", "latents", "DATALOADER.NUM_WORKERS", 0)
    cfg.merge_from_file("config.yml")
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "DCAC"])
    return cfg


class TrainingSet:
    """Six images, read with the real loader."""

    def __init__(self, cfg):
        from fastreid.data.build import build_reid_train_loader

        self.cfg, self.images = cfg, build_reid_train_loader(cfg).dataset.images

    def batches(self, images, transforms=None):
        return build_feature_loader(self.cfg, images, transforms)


def test_stored_latents_give_the_same_loss(make_dcac, people):
    model, known = make_dcac("DCAC.SD.LATENT_CACHE", "latents"), TrainingSet(people)
    (task,) = model.feedback.epoch_tasks()
    assert isinstance(task, FillCache) and task.is_due(0)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    task.run(known)
    assert torch.equal(torch.get_rng_state(), before) and not task.is_due(1)
    indices = torch.tensor([4, 1, 0, 3])
    images = [known.images[index] for index in indices]
    (batch,) = build_feature_loader(people, images, {VIEW: model.feedback.transform})
    batch |= {"targets": torch.tensor([0, 1, 2, 3]), "indices": indices}
    logits, features = torch.randn(4, 5), F.normalize(torch.randn(4, model.heads.weight.shape[1]))
    losses = []
    for cache in (model.feedback.cache, None):
        model.feedback.cache = cache
        torch.manual_seed(3)
        losses.append(model.feedback(logits, features, batch["targets"], None, batch))
    torch.testing.assert_close(*losses)


def test_lost_latents_are_explained(make_dcac, people):
    model = make_dcac("DCAC.SD.LATENT_CACHE", "latents")
    model.feedback.cache.use("latents_of_another_run.npy")
    with pytest.raises(ArgumentError, match="missing or damaged.*DCAC.SD.LATENT_CACHE"):
        model.feedback.cache.read(torch.tensor([0]))


def test_a_batch_without_the_view_is_explained(make_dcac, batch):
    del batch[VIEW]
    with pytest.raises(ConfigError, match="diffusion_images"):
        make_dcac().feedback.moments(batch)
