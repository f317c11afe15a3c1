"""Keys of PISL reach the parts that read them."""

from functools import reduce

import numpy as np
import pytest
import torch

from fastreid.config import ConfigError, get_cfg
from fastreid.methods.pisl import pseudo_labels
from fastreid.methods.pisl.diffusion import cosine_betas
from fastreid.modeling import build_model
from fastreid.solver import build_lr_scheduler
from tests.golden_values import Golden
from tests.methods.pisl.conftest import pisl_cfg
from tests.methods.pisl.test_pisl import labelling_of
from tests.miniature import ROOT

EPS = ("PISL.DIFF.PREDICT", "eps")
RELEASED = (*EPS, "PISL.DIFF.SAMPLER", "released")

# Key, a value that is not the default, and the attribute of the model that must have it.
ATTRIBUTES = [
    ("PISL.SDM.PADDING", "border", "_options.padding"),
    ("PISL.PSC.REFINE", 0.3, "_options.refine"),
    ("PISL.PSC.SMOOTH_START", 7, "_options.smooth_start"),
    ("PISL.CE.EPSILON", 0.2, "_options.epsilon"),
    ("PISL.TRI.WEIGHT", 0.7, "_options.triplet_weight"),
    ("PISL.TRI.MARGIN", 0.4, "_options.margin"),
    ("PISL.CAM.WEIGHT", 0.9, "_options.camera_weight"),
    ("PISL.CAM.TEMP", 0.2, "_camera_contrast.temperature"),
    ("PISL.CAM.NUM_HARD", 9, "_camera_contrast.num_hard"),
    ("PISL.CAM.FILL_WITH_OWN", True, "_camera_contrast.fills_with_own"),
    ("PISL.SCD.WEIGHT", 0.4, "_options.diffusion_weight"),
    ("PISL.SCD.TARGET", "eps", "_diffusion_loss.target"),
    ("PISL.SCD.CONSIST_OF", "noisy", "_diffusion_loss.consistency_of"),
    ("PISL.SCD.LAMBDA_CONSIST", 0.6, "_diffusion_loss.consistency_weight"),
    ("PISL.SCD.COS_WEIGHT", 0.2, "_diffusion_loss.cosine_weight"),
    ("PISL.SCD.LAMBDA_CONTRAST", 0.4, "_diffusion_loss.contrast_weight"),
    ("PISL.SCD.TEMP", 0.1, "_diffusion_loss.temperature"),
    ("PISL.DIFF.TIMESTEPS", 100, "spatial_diffusion.schedule.num_timesteps"),
    ("PISL.DIFF.SAMPLE_STEPS", 5, "spatial_diffusion.sampler.num_steps"),
    ("PISL.DIFF.SCALE", 2.0, "spatial_diffusion.signal.scale"),
    ("PISL.DIFF.SIGNAL", "box", "spatial_diffusion.signal.is_box"),
    ("PISL.DIFF.SEED", 3, "spatial_diffusion.noise.seed"),
    ("PISL.DIFF.TIME_DIM", 10, "spatial_diffusion.denoiser.time_dim"),
]


@pytest.mark.parametrize(("key", "value", "attribute"), ATTRIBUTES, ids=lambda word: str(word))
def test_values_reach_the_parts_that_read_them(key, value, attribute):
    found = reduce(getattr, attribute.split("."), build_model(pisl_cfg(key, value)))
    assert found == (True if value == "box" else value)
    assert reduce(getattr, attribute.split("."), build_model(pisl_cfg())) != found


def test_the_schedule_has_its_offset():
    schedule = build_model(pisl_cfg("PISL.DIFF.COSINE_S", 0.1)).spatial_diffusion.schedule
    assert schedule.betas["trained_betas"] == cosine_betas(1000, 0.1) != cosine_betas(1000, 0.008)


@pytest.mark.parametrize("std", [0.001, 0.5])
def test_the_first_classifiers_have_the_standard_deviation_of_their_key(std):
    model = build_model(pisl_cfg("PISL.CLASSIFIER_STD", std))
    for weight in (model.heads.weight, model.part_heads.classifiers):
        assert weight.std().item() == pytest.approx(std, rel=0.1)


def test_without_camera_contrast_its_weight_does_not_count():
    assert build_model(pisl_cfg("PISL.CAM.ENABLED", False))._options.camera_weight == 0


def test_the_noise_of_the_released_sampler_has_its_weight():
    diffusions = [build_model(pisl_cfg(*RELEASED, "PISL.DIFF.ETA", eta)).spatial_diffusion for eta in (1.0, 0.0)]
    features = torch.randn(2, diffusions[0].denoiser.feature_dim)
    images = torch.rand(2, 3, 8, 8).mul(255).round()

    def moved_by_later_noise(diffusion):
        """Whether other noise after the start changes the sample."""
        draw, samples = diffusion.noise.draw, []
        for factor in (1, 2):
            diffusion.noise.draw = lambda *given, factor=factor: torch.cat(
                [(noise := draw(*given))[:1], factor * noise[1:]]
            )
            samples.append(diffusion.sample(features, {"images": images}))
        return not torch.equal(*samples)

    assert [moved_by_later_noise(diffusion) for diffusion in diffusions] == [True, False]


def test_scores_are_computed_as_the_keys_say(batch, monkeypatch):
    keys = ("PISL.PSC.KNN", 3, "PISL.PSC.SCORE", "jaccard", "CLUSTER.KNN_BACKEND", "torch", "MODEL.DEVICE", "cpu")
    model, seen = build_model(pisl_cfg(*keys)), {}
    score = pseudo_labels.consistency_scores
    monkeypatch.setattr(
        pseudo_labels, "consistency_scores", lambda *given, **options: seen.update(options) or score(*given, **options)
    )
    model.epoch_tasks()[0]._take(labelling_of(model, batch))
    assert seen == {"k": 3, "kind": "jaccard", "search": "torch", "device": "cpu", "nearest": None}


def test_sharded_classifiers_are_not_set_to_centres():
    """Under FSDP what an epoch task writes into a weight is lost."""
    model = build_model(pisl_cfg("SOLVER.FSDP.ENABLED", True))
    with pytest.raises(ConfigError, match="CLUSTER.REINIT_CLASSIFIER sets rows of whole classifiers"):
        model.epoch_tasks()
    build_model(pisl_cfg("SOLVER.FSDP.ENABLED", True, "CLUSTER.REINIT_CLASSIFIER", False)).epoch_tasks()


def test_the_learning_rate_is_that_of_the_release():
    cfg = get_cfg()
    cfg.merge_from_file(str(ROOT / "configs/PISL/market1501.yml"))
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    schedule = build_lr_scheduler(cfg, optimizer, cfg.SOLVER.ITERS_PER_EPOCH)
    rates = [schedule.lr_at(epoch * cfg.SOLVER.ITERS_PER_EPOCH) for epoch in range(cfg.SOLVER.MAX_EPOCH)]
    np.testing.assert_allclose(rates, Golden("pisl").arrays["lr/epoch_0_to_49"], rtol=1e-6)
