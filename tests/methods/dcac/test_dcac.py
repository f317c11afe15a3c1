"""DCAC: where gradients flow, what trains, what evaluation needs, and its keys."""

import numpy as np
import pytest
import torch

from fastreid.config import ConfigError
from fastreid.methods.dcac import dcac
from fastreid.methods.dcac.dcac import DCAC
from fastreid.modeling import build_model
from fastreid.modeling.amp import store_frozen_assets
from fastreid.modeling.diffusion import AssetError
from fastreid.modeling.model import evaluation_config_of
from fastreid.solver import build_optimizer
from fastreid.utils.checkpoint import load_weights
from tests.methods.dcac.conftest import CLASSES, DIM, dcac_cfg

FULL_ATTENTION = ("DCAC.SD.SINGLE_TOKEN", False)


def gradients(model, batch, name="loss_diffusion"):
    """Name -> gradient of one loss, for all parameters; None where it does not reach."""
    torch.manual_seed(5)
    losses = model(batch)
    parameters = dict(model.named_parameters())
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    found = torch.autograd.grad(losses[name], list(trained.values()), allow_unused=True)
    return dict.fromkeys(parameters) | dict(zip(trained, found, strict=True))


def reaches(found, prefix):
    return any(g is not None and bool(g.any()) for name, g in found.items() if name.startswith(prefix))


def test_the_diffusion_loss_reaches_the_reid_model_and_not_the_frozen_parts(make_dcac, batch):
    found = gradients(make_dcac(), batch)
    for part in ("backbone.", "heads.weight", "heads.bottleneck.", "feedback.condition.class_prompts"):
        assert reaches(found, part), part
    assert not reaches(found, "feedback.autoencoder.")
    base = {name: g for name, g in found.items() if "denoiser" in name and "lora" not in name}
    assert base and all(g is None for g in base.values())


@pytest.mark.parametrize("key", ["DCAC.COND.DETACH", "DCAC.COND.HARD_LABEL"])
def test_without_feedback_only_prompts_and_adapters_learn(make_dcac, batch, key):
    found = gradients(make_dcac(key, True), batch)
    assert not reaches(found, "backbone.") and not reaches(found, "heads.")
    assert reaches(found, "feedback.condition.") and reaches(found, "feedback.denoiser.")


@pytest.mark.parametrize("source", ["pcl", "fc+pcl", "feature"])
def test_every_source_feeds_back(make_dcac, batch, source):
    model = make_dcac("DCAC.COND.SOURCE", source)
    if model.memory is not None:
        model.memory.class_prototypes.normal_(generator=torch.Generator().manual_seed(0))
    sum(model(batch).values()).backward()  # the prototypes move before the backward pass
    assert model.backbone.model.blocks[0].attn.qkv.weight.grad.any()


def test_adapters_start_as_zero_and_both_halves_learn_after_a_step(make_dcac, batch):
    model = make_dcac(*FULL_ATTENTION)
    found = gradients(model, batch)
    assert reaches({n: g for n, g in found.items() if "lora_B" in n}, "")
    assert not reaches({n: g for n, g in found.items() if "lora_A" in n}, "")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sum(model(batch).values()).backward()
    optimizer.step()
    found = gradients(model, batch)
    assert reaches({n: g for n, g in found.items() if "lora_A" in n}, "")
    idle = {n: g for n, g in found.items() if "attn2.to_q.lora" in n or "attn2.to_k.lora" in n}
    assert idle and max(float(g.abs().max()) for g in idle.values()) < 1e-9  # there is one key: its weight is 1


def test_the_closed_form_of_the_attention_gives_the_same_losses_and_gradients(make_dcac, batch):
    fast, full = make_dcac(), make_dcac(*FULL_ATTENTION)
    mine, theirs = gradients(fast, batch), gradients(full, batch)
    idle = ("attn2.to_q", "attn2.to_k")
    for name, gradient in mine.items():
        if gradient is not None:
            torch.testing.assert_close(gradient, theirs[name], rtol=1e-3, atol=1e-6, msg=name)
    assert all(not p.requires_grad for n, p in fast.named_parameters() if any(part in n for part in idle))


def test_adapters_do_not_change_the_denoiser_at_the_start(make_dcac, batch):
    losses = []
    for way in ("lora", "freeze"):
        torch.manual_seed(0)
        model = make_dcac("DCAC.SD.FINETUNE", way)
        torch.manual_seed(5)
        losses.append(model(batch)["loss_diffusion"])
    assert torch.equal(*losses)


def test_the_biases_of_the_release_change_the_denoiser_and_stay_frozen(make_dcac, batch):
    losses = []
    for biased in (False, True):
        model = make_dcac("DCAC.LORA.RANDOM_BIAS", biased)
        torch.manual_seed(5)
        losses.append(float(model(batch)["loss_diffusion"].detach()))
        ends = ("to_q.base_layer.bias", "to_v.base_layer.bias")
        biases = [p for name, p in model.named_parameters() if name.endswith(ends)]
        assert bool(biases) is biased and not any(p.requires_grad for p in biases)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("way", ["lora", "all", "freeze"])
def test_what_trains(make_dcac, way):
    model = make_dcac("DCAC.SD.FINETUNE", way, *FULL_ATTENTION)
    trained = [name for name, p in model.feedback.denoiser.named_parameters() if p.requires_grad]
    everything = list(dict(model.feedback.denoiser.named_parameters()))
    assert trained == {"lora": [n for n in everything if "lora" in n], "all": everything, "freeze": []}[way]
    assert model.feedback.condition.prompts.requires_grad


def test_without_the_diffusion_loss_the_baseline_is_the_same(make_dcac, batch):
    torch.manual_seed(0)
    with_feedback, baseline = make_dcac("DCAC.COND.DETACH", True), make_dcac("MODEL.LOSSES.DIFF.SCALE", 0.0)
    assert baseline.feedback is None
    mine = dict(with_feedback.named_parameters())
    assert all(torch.equal(p, mine[name]) for name, p in baseline.named_parameters())
    losses = with_feedback(batch)
    del losses["loss_diffusion"]
    assert losses == baseline({name: value for name, value in batch.items() if name != "diffusion_images"})
    assert torch.equal(with_feedback.memory.class_prototypes, baseline.memory.class_prototypes)


@pytest.mark.parametrize("passes", [1, 2])
def test_the_statistics_of_the_neck_move_as_often_as_batches_pass_it(make_dcac, batch, passes):
    model = make_dcac("DCAC.NECK_PASSES", passes)
    model(batch)
    neck = model.heads.bottleneck[0]
    assert int(neck.num_batches_tracked) == passes
    assert not neck.bias.any() and not neck.bias.requires_grad


def test_evaluation_builds_no_diffusion_model_and_takes_any_number_of_classes(make_dcac, batch, sd_folder, tmp_path):
    model = make_dcac()
    model(batch)
    torch.save({"model": model.checkpoint_state_dict()}, tmp_path / "model.pth")
    names = model.checkpoint_state_dict().keys()
    assert not any("autoencoder" in name or "base_layer" in name for name in names)
    cfg = evaluation_config_of(dcac_cfg(sd_folder, "DCAC.SD.WEIGHTS", "nowhere"))
    plain = build_model(cfg, num_classes=1)
    report = load_weights(plain, tmp_path / "model.pth", to_evaluate=True)
    assert plain.feedback is None and plain.memory is None and not report.unexpected
    features = plain.eval()(batch["images"])
    torch.testing.assert_close(features.norm(dim=1), torch.ones(8))
    assert torch.equal(features, model.eval()(batch["images"]))


def test_the_feature_before_the_neck(make_dcac, batch):
    model = make_dcac("TEST.NECK_FEAT", "before").eval()
    maps = model.backbone(model.preprocess_image(batch))
    torch.testing.assert_close(model(batch), torch.nn.functional.normalize(maps[..., 0, 0]))


@pytest.mark.parametrize("tested", ["after", "before"])
def test_prototypes_are_made_of_features_after_the_neck(make_dcac, batch, tested):
    model = make_dcac("TEST.NECK_FEAT", tested)
    model.heads.bottleneck[0].running_mean.normal_(generator=torch.Generator().manual_seed(3))

    class Images:
        labels = batch["targets"].tolist()

        def features(self, extractor):
            with torch.no_grad():
                return torch.arange(8), extractor.eval()(batch)

    model.epoch_tasks()[0].run(Images())
    maps = model.backbone(model.preprocess_image(batch))
    features = torch.nn.functional.normalize(model.heads.embed(maps)[1], dim=1)
    means = torch.nn.functional.normalize(features.view(4, 2, -1).mean(dim=1), dim=1)
    torch.testing.assert_close(model.memory.class_prototypes[:4], means.detach())


def test_prompts_and_prototypes_of_other_people_are_left_out(make_dcac, batch, tmp_path):
    torch.save({"model": make_dcac().checkpoint_state_dict()}, tmp_path / "model.pth")
    report = load_weights(make_dcac(num_classes=CLASSES + 1), tmp_path / "model.pth", to_train=True)
    assert len(report.dropped_classifiers) == 3 and not report.mismatched


def test_prompts_have_a_rate_of_their_own(make_dcac, sd_folder):
    model = make_dcac()
    optimizer = build_optimizer(dcac_cfg(sd_folder, "SOLVER.PROMPT_LR_FACTOR", 3.0), model)
    (rate,) = {g["lr"] for g in optimizer.param_groups for p in g["params"] if p is model.feedback.condition.prompts}
    assert rate == pytest.approx(9e-4)


def test_frozen_weights_are_stored_in_the_format_of_autocast(make_dcac, batch, sd_folder):
    model, cfg = make_dcac(), dcac_cfg(sd_folder, "SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bf16")
    losses = []
    for _ in range(2):
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(model(batch)["loss_diffusion"])
        store_frozen_assets(cfg, model, "cpu")
    assert torch.equal(*losses)
    types = {p.dtype for n, p in model.named_parameters() if "denoiser" in n and "conv1.weight" in n}
    assert types == {torch.bfloat16}
    assert all(p.dtype is torch.float32 for p in model.parameters() if p.requires_grad)


def test_gradient_checkpointing_changes_no_gradient(make_dcac, batch):
    mine, theirs = gradients(make_dcac("DCAC.SD.CHECKPOINTING", True), batch), gradients(make_dcac(), batch)
    for name, gradient in mine.items():
        if gradient is not None:
            torch.testing.assert_close(gradient, theirs[name], msg=name)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["DCAC.SD.WEIGHTS", ""], ConfigError, "DCAC.SD.WEIGHTS.*DIFF.SCALE 0"),
        (["DCAC.SD.WEIGHTS", "nowhere"], AssetError, "nowhere.*DCAC.SD.WEIGHTS"),
        (["DCAC.LORA.TARGETS", ("attn3.q",)], ConfigError, "DCAC.LORA.TARGETS.*'attn3.q'.*ff.in"),
        (["DCAC.LORA.TARGETS", ("attn1.qx",)], ConfigError, "DCAC.LORA.TARGETS.*'attn1.qx'"),
        (["DCAC.LORA.TARGETS", ()], ConfigError, "DCAC.LORA.TARGETS is empty"),
        (["DCAC.SD.IMAGE_SIZE", 31], ConfigError, "DCAC.SD.IMAGE_SIZE.*32x32 does"),
        (["DCAC.SD.IMAGE_SIZE", 34], ConfigError, "DCAC.SD.IMAGE_SIZE.*multiple of 4"),
        (["DCAC.SD.LATENT_CACHE", "x", "DCAC.SD.RANDOM_CROP", True], ConfigError, "RANDOM_CROP"),
        (["DCAC.SD.TIMESTEPS", 1000, "MODEL.HEADS.NAME", "Nothing"], KeyError, "Nothing"),
    ],
)
def test_impossible_keys_are_named(make_dcac, options, error, message):
    with pytest.raises(error, match=message):
        make_dcac(*options)


def test_a_batch_without_the_second_view_is_explained(make_dcac, batch):
    del batch["diffusion_images"]
    with pytest.raises(ConfigError, match="image_transforms"):
        make_dcac()(batch)


def test_the_second_view_is_the_whole_image_as_a_square(sd_folder):
    picture = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    (view,) = DCAC.image_transforms(dcac_cfg(sd_folder), is_train=True).values()
    assert torch.equal(view(picture), view(picture)) and view(picture).shape == (3, 32, 32)
    assert DCAC.image_transforms(dcac_cfg(sd_folder), is_train=False) == {}
    assert DCAC.image_transforms(dcac_cfg(sd_folder, "DCAC.SD.LATENT_CACHE", "x"), is_train=True) == {}
    (crop,) = DCAC.image_transforms(dcac_cfg(sd_folder, "DCAC.SD.RANDOM_CROP", True), is_train=True).values()
    assert crop(picture).shape == (3, 32, 32)
    assert len({crop(picture).sum().item() for _ in range(8)}) > 1


def test_the_condition_has_the_width_of_the_unet(make_dcac):
    assert make_dcac().feedback.condition.prompts.shape == (CLASSES, DIM)


def test_the_model_file_is_short():
    with open(dcac.__file__, encoding="utf-8") as file:
        assert len(file.readlines()) <= 200
