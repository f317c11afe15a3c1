"""A tiny PISL, with labels as if its images had been clustered."""

import pytest
import torch

from fastreid.config import CfgNode, get_cfg
from fastreid.methods.pisl.camera_contrast import CameraProxies
from fastreid.modeling import build_model

ROWS = 7  # rows of the classifiers; the clusters are fewer
TINY = [
    *("MODEL.META_ARCHITECTURE", "PISL", "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.PRETRAIN", False),
    *("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.BACKBONE.TIMM_NAME", "test_resnet"),
    *("MODEL.HEADS.WITH_BNNECK", True, "MODEL.HEADS.MAX_CLUSTERS", ROWS),
    *("INPUT.SIZE_TRAIN", [128, 96], "INPUT.SIZE_TEST", [128, 96]),
    *("PISL.SDM.LOC_CHANNELS", 6, "PISL.SDM.HIDDEN", 5, "PISL.DIFF.TIME_DIM", 8, "PISL.DIFF.HIDDEN", [12, 10]),
    *("PISL.DIFF.SAMPLE_STEPS", 4),
]
CLUSTERS, CAMERAS, IMAGES = 3, 2, 12


def pisl_cfg(*options: object) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list([*TINY, *options])
    return cfg


def give_labels(model, *, seed=2):
    """Scores and proxies as a labelling of `IMAGES` images would leave them."""
    generator = torch.Generator().manual_seed(seed)
    state, parts = model.state, 0 if model.part_heads is None else len(model.part_heads.necks)
    dim = model.heads.weight.shape[1]
    state.num_clusters = CLUSTERS
    state.scores = torch.rand(IMAGES, parts, generator=generator)
    proxies = torch.randn(1 + parts, CLUSTERS * CAMERAS, dim, generator=generator)
    state.proxies = CameraProxies(
        torch.nn.functional.normalize(proxies, dim=2),
        torch.arange(CLUSTERS).repeat_interleave(CAMERAS),
        torch.arange(CAMERAS).repeat(CLUSTERS),
    )
    return model


@pytest.fixture
def make_pisl():
    """make_pisl(KEY, VALUE, …) -> a tiny PISL in training mode; the same weights every time."""

    def make(*options):
        torch.manual_seed(0)
        model = build_model(pisl_cfg(*options))
        if model.spatial_diffusion is not None:  # so that the matrices depend on what they should depend on
            for layer in (model.spatial_diffusion.localizer.output, model.spatial_diffusion.denoiser.net[-1]):
                torch.nn.init.normal_(layer.weight, std=0.05)
        return give_labels(model)

    return make


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return {
        "images": (torch.rand(6, 3, 128, 96, generator=generator) * 255).round(),
        "targets": torch.arange(6) // 2,
        "camids": torch.arange(6) % CAMERAS,
        "indices": torch.tensor([11, 0, 3, 4, 7, 9]),
        "img_paths": [f"{number}.jpg" for number in range(6)],
    }
