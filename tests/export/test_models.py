"""Every model that can be evaluated is exported for batches of any size, and computes the same."""

import io
import json

import pytest
import torch
from torch import nn

from fastreid.export import ExportOptions, export_model
from fastreid.export.formats import FORMATS
from fastreid.export.tracing import trace
from fastreid.layers import POOLING_REGISTRY
from fastreid.modeling.diffusion import Sampler, Schedule
from fastreid.modeling.diffusion.guidance import NullCondition, get_guidance
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.structures import Condition, ControlMaps
from tests.export.models import KEYS, MLP, WITHOUT_FEATURES, tiny_cfg, tiny_model

TRANSFORMER = (
    *("MODEL.SDMODEL.DENOISER", "transformer", "MODEL.SDMODEL.SCHEDULER_CONFIG.PRETRAINED_PATH", ""),
    *("MODEL.SDMODEL.TRANSFORMER_CONFIG.DEPTH", 1, "MODEL.SDMODEL.TRANSFORMER_CONFIG.HEADS", 3),
)
STEPS = "TEST.SDMODEL.NUM_INFERENCE_STEPS"
LEVERS = (
    *("MODEL.SDMODEL.WHITEN_LATENT", True, "MODEL.SDMODEL.OWN_VIEW_CONDITION", True),
    *("MODEL.SDMODEL.LINEAR_MEAN", True, "MODEL.SDMODEL.LEARNT_NOISE", True),
    *("TEST.SDMODEL.NUM_DRAWS", 2, "TEST.SDMODEL.PARTS", ("person", "latent", "generated")),
    *("TEST.SDMODEL.VIEW_WEIGHTS", [0.5, 1.5], "TEST.SDMODEL.FUSION", "weighted"),
)
PATCHES = ("MODEL.BACKBONE.OUTPUT", "patches", "MODEL.HEADS.POOL_LAYER", "GeneralizedMeanPoolingP")


def exported(cfg, tmp_path, form="torch", **options):
    path = tmp_path / f"model{FORMATS[form].suffix}"
    agreement = export_model(tiny_model(cfg), cfg, path, ExportOptions(form, **options))
    assert path.is_file() and agreement.scale > 0
    return agreement


def test_every_model_of_the_library_has_a_tiny_one_here():
    names = {name for name in META_ARCH_REGISTRY if META_ARCH_REGISTRY.get(name).__module__.startswith("fastreid.")}
    assert names == KEYS.keys() | WITHOUT_FEATURES, "add a tiny config of the new model to tests/export/models.py"


@pytest.mark.parametrize("name", KEYS)
def test_every_model_is_exported_for_batches_of_any_size(name, assets, tmp_path):
    assert exported(tiny_cfg(name, assets, STEPS, 1), tmp_path).cosine > 0.99999


@pytest.mark.parametrize("options", [MLP, TRANSFORMER, (*MLP, *LEVERS)], ids=["mlp", "transformer", "levers"])
def test_stage_2_is_exported_with_every_denoiser_of_vectors(options, assets, tmp_path):
    assert exported(tiny_cfg("SDReIDStage2", assets, STEPS, 2, *options), tmp_path).cosine > 0.9999


class Named(nn.Module):
    """A function with one argument, by name."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, rows):
        return self.function(rows)


def check(function, rows):
    """Trace a function with two rows, and compare it on other numbers of rows."""
    graph = trace(Named(function).eval(), {"rows": rows[:2]}).module()
    for count in (1, 2, 5):
        torch.testing.assert_close(graph(rows=rows[:count]), function(rows[:count]))


@pytest.mark.parametrize("solver", ["pndm", "euler", "dpm++", "ddpm", "ddim"])
@pytest.mark.parametrize("guidance", ["full", "uc_down_full"])
def test_every_solver_is_traced(solver, guidance):
    schedule = Schedule.from_pretrained("", solver=solver, num_timesteps=20, prediction_type="epsilon")
    sampler = Sampler(schedule, num_steps=5, guidance=get_guidance(guidance), control_fades=True)
    noise = torch.randn(sampler.noise_steps, 1, 3)

    def predict(samples, timestep, condition):
        return 0.5 * samples + condition.tokens[:, 0] * timestep / 20 + condition.control.down[0]

    def sample(rows):
        tokens = rows[:, None]
        control = ControlMaps(down=(rows.flip(1),), up=())
        null = NullCondition(torch.zeros_like(tokens))
        return sampler.sample(predict, Condition(tokens, control), null, noise.expand(-1, rows.shape[0], -1))

    check(sample, torch.randn(5, 3))


_TIMM = (
    *("MODEL.BACKBONE.DEPTH", "50x", "MODEL.BACKBONE.NAME", "build_timm_backbone"),
    "MODEL.BACKBONE.TIMM_NAME",
)
BACKBONES = {
    "resnet with all": [
        *("MODEL.BACKBONE.DEPTH", "50x", "MODEL.BACKBONE.WITH_IBN", True, "MODEL.BACKBONE.WITH_SE", True),
        *("MODEL.BACKBONE.WITH_NL", True, "MODEL.HEADS.POOL_LAYER", "GeneralizedMeanPoolingP"),
    ],
    "vit patches": ["MODEL.BACKBONE.NAME", "build_vit_backbone", "MODEL.BACKBONE.DEPTH", "mini", *PATCHES],
    "clip": [
        *("MODEL.BACKBONE.NAME", "build_clip_backbone", "MODEL.BACKBONE.DEPTH", "mini"),
        *("MODEL.BACKBONE.CLIP_FEATURE", "both", "MODEL.HEADS.POOL_LAYER", "Identity"),
    ],
    "swin": [*_TIMM, "swin_tiny_patch4_window7_224"],
    "mobilenet": ["MODEL.BACKBONE.NAME", "build_mobilenetv3_backbone", "MODEL.BACKBONE.DEPTH", "small"],
    "eva": [*_TIMM, "eva02_tiny_patch14_224", "INPUT.SIZE_TRAIN", [56, 28], "INPUT.SIZE_TEST", [56, 28]],
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", BACKBONES)
def test_every_kind_of_backbone_is_exported(name, form, assets, tmp_path):
    assert exported(tiny_cfg("Baseline", assets, *BACKBONES[name]), tmp_path, form).cosine > 0.9999


@pytest.mark.parametrize("name", POOLING_REGISTRY)
def test_every_pooling_is_traced(name):
    check(POOLING_REGISTRY.get(name)(), torch.rand(5, 4, 3, 2))


@pytest.mark.parametrize("name", ["SDReIDStage1", "SDReIDStage2"])
def test_onnx_of_the_vit_and_of_a_generator(name, assets, tmp_path):
    options = MLP if name == "SDReIDStage2" else ()
    agreement = exported(tiny_cfg(name, assets, STEPS, 2, *options), tmp_path, "onnx")
    assert agreement.cosine > 0.99999

    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (images,), (features,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", 3, 64, 32])
    assert (features.name, features.shape[0]) == ("features", "batch")
    texts = session.get_modelmeta().custom_metadata_map
    assert json.loads(texts["metadata"])["method"] == name and "META_ARCHITECTURE: " + name in texts["config"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, []) for name in KEYS),
        ("Baseline", ["MODEL.BACKBONE.DEPTH", "50x"]),
        ("SDReIDStage2", TRANSFORMER),
        ("SDReIDStage2", [*MLP, *LEVERS]),
        ("Baseline", ["MODEL.HEADS.POOL_LAYER", "GeneralizedMeanPoolingP"]),
        ("Baseline", ["MODEL.HEADS.POOL_LAYER", "AdaptiveAvgMaxPool"]),
    ],
    ids=str,
)
def test_onnx_of_every_model(name, options, assets, tmp_path):
    # One step: its graph has the UNet once.
    assert exported(tiny_cfg(name, assets, STEPS, 1, *options), tmp_path, "onnx").cosine > 0.9999


def test_the_files_of_torch_have_the_metadata(assets, tmp_path):
    cfg = tiny_cfg("SDReIDStage2", assets, *MLP, STEPS, 3, "TEST.SDMODEL.NOISE_SEED", 7)
    exported(cfg, tmp_path, has_unit_length=False)
    texts = {"metadata.json": "", "config.yaml": ""}
    torch.export.load(io.BytesIO((tmp_path / "model.pt2").read_bytes()), extra_files=texts)
    metadata = json.loads(texts["metadata.json"])
    assert metadata["generation"] == {
        "views": 2, "draws": 1, "steps": 3, "solver": "ddpm", "noise": "shared", "noise_seed": 7,
    }  # fmt: skip
    assert metadata["features"]["unit_length"] is False and metadata["features"]["length"] == 3 * 192
    assert "NUM_INFERENCE_STEPS: 3" in texts["config.yaml"]
