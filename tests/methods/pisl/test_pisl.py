"""The model: gradients, labels, evaluation, and each field of the released overlay."""

import pytest
import torch
import torch.nn.functional as F

from fastreid.config import ConfigError, get_cfg
from fastreid.labeling.relabel import Labelling
from fastreid.methods.pisl import pisl
from fastreid.methods.pisl.pseudo_labels import EpochState, PartExtractor
from fastreid.modeling import build_model
from fastreid.modeling.model import evaluation_config_of
from tests.methods.pisl.conftest import CLUSTERS, IMAGES, ROWS, TINY, give_labels, pisl_cfg
from tests.miniature import ROOT


def step(model, batch):
    """Losses of a step, and the gradient of their sum by parameter."""
    torch.manual_seed(5)
    model.zero_grad()
    losses = model.train()(batch)
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def labelling_of(model, batch, num_images=IMAGES):
    """Clusters 0 … 2 for the six images of the batch, at positions 0, 2, 4 … of the training set."""
    rows = PartExtractor(model.eval())(batch).detach()
    indices = torch.arange(0, num_images, 2)
    return Labelling(indices, rows, torch.tensor([0, 0, 1, 1, 2, -1]), batch["camids"], num_images, CLUSTERS)


def test_losses_and_where_their_gradients_go(make_pisl, batch):
    model = make_pisl()
    losses, gradients = step(model, batch)
    assert {name.removeprefix("loss_") for name in losses} == {
        *("cls", "part", "triplet", "camera"), *("scd_diffusion", "scd_consistency", "scd_contrast"),
    }  # fmt: skip
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    missing = [name for name, p in model.named_parameters() if p.requires_grad and name not in gradients]
    assert missing == []
    assert not gradients["heads.weight"][CLUSTERS:].any() and gradients["heads.weight"][:CLUSTERS].any()
    assert not gradients["part_heads.classifiers"][:, CLUSTERS:].any()


def test_the_diffusion_loss_reaches_localiser_denoiser_and_backbone(make_pisl, batch):
    keys = ("PISL.SDM.PATCH_SOURCE", "init")  # so that the part losses do not reach the denoiser
    with_loss, without = (step(make_pisl(*keys, "PISL.SCD.WEIGHT", weight), batch)[1] for weight in (0.1, 0.0))
    for part in ("spatial_diffusion.localizer.output.weight", "backbone"):
        name = next(name for name in with_loss if name.startswith(part))
        assert not torch.equal(with_loss[name], without[name])
    denoiser = [name for name in with_loss if ".denoiser." in name]
    assert denoiser and not set(denoiser) & set(without)  # frozen: no loss reaches it
    terms = ("PISL.SCD.LAMBDA_CONSIST", 0.0, "PISL.SCD.LAMBDA_CONTRAST", 0.0)
    gradients = step(make_pisl(*keys, *terms, "PISL.SCD.WEIGHT", 1e3), batch)[1]
    assert all(gradients[name].any() for name in denoiser if name.endswith("net.4.bias"))


def test_zero_terms_are_those_of_no_diffusion_loss(make_pisl, batch):
    nothing = ("PISL.SCD.WEIGHT", 0.0)
    losses, gradients = step(make_pisl(*nothing), batch)
    assert not any(name.startswith("loss_scd") for name in losses)
    again = step(make_pisl("PISL.SCD.WEIGHT", 1e-12), batch)[1]
    for name, gradient in gradients.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6)


def test_labels_of_parts_are_smoothed_by_scores_from_an_epoch_on(make_pisl, batch):
    model = make_pisl("PISL.PSC.SMOOTH_START", 5)
    found = []
    for epoch in (4, 5):
        for scores in (torch.rand(IMAGES, 3), torch.rand(IMAGES, 3)):
            model.state.epoch, model.state.scores = epoch, scores
            found.append(step(model, batch)[0]["loss_part"].item())
    assert found[0] == found[1] and found[2] != found[3] and found[1] != found[2]


def test_refinement_weighs_scores(make_pisl, batch):
    model = make_pisl("PISL.PSC.REFINE", 1.0)
    model.state.epoch = 0
    plain = step(model, batch)[0]["loss_cls"]
    with torch.no_grad():
        _, neck = model.heads.embed(model.backbone(model.preprocess_image(batch)))
        logits = F.linear(neck, model.heads.weight[:CLUSTERS])
    torch.testing.assert_close(plain, F.cross_entropy(logits, batch["targets"]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "keys", [(), ("PISL.SDM.PATCH_SOURCE", "stripes"), ("PISL.NUM_PARTS", 0), ("PISL.NUM_PARTS", 5)]
)
def test_a_labelling_sets_rows_scores_and_proxies(make_pisl, batch, keys):
    model = make_pisl(*keys, "PISL.PSC.KNN", 3, "PISL.PSC.SCORE", "mmd_exp")
    model.state.num_clusters = 0
    labelling = labelling_of(model, batch)
    task = model.epoch_tasks()[0]
    before = model.heads.weight.detach().clone()
    task._take(labelling)
    parts = 0 if model.part_heads is None else len(model.part_heads.necks)
    unit = F.normalize(labelling.features[:, : model.heads.weight.shape[1]])
    centres = torch.stack([F.normalize(unit[labelling.labels == k].mean(dim=0), dim=0) for k in range(CLUSTERS)])
    torch.testing.assert_close(model.heads.weight[:CLUSTERS].detach(), centres)
    assert torch.equal(model.heads.weight[CLUSTERS:], before[CLUSTERS:])
    state = model.state
    assert state.num_clusters == CLUSTERS and state.scores.shape == (IMAGES, parts)
    assert not state.scores[1::2].any() and (not parts or bool(state.scores[::2].any()))
    assert state.proxies.features.shape[:2] == (1 + parts, 5)  # clusters 0 and 1 in two cameras, 2 in one
    torch.testing.assert_close(state.proxies.features.norm(dim=2), torch.ones(1 + parts, 5))
    assert all(loss.isfinite() for loss in step(model, {**batch, "indices": labelling.indices % IMAGES})[0].values())


def test_classifiers_may_be_kept(make_pisl, batch):
    model = make_pisl("CLUSTER.REINIT_CLASSIFIER", False, "PISL.PSC.KNN", 3)
    before = model.heads.weight.detach().clone()
    model.epoch_tasks()[0]._take(labelling_of(model, batch))
    assert torch.equal(model.heads.weight, before)


def test_scores_of_a_few_images_are_computed_from_fewer_neighbours_and_a_warning_is_logged(make_pisl, batch, caplog):
    model = make_pisl("PISL.PSC.KNN", 20)
    model.epoch_tasks()[0]._take(labelling_of(model, batch))
    assert "6 images have fewer than PISL.PSC.KNN 20 neighbours each: scores are computed from 5" in caplog.text


@pytest.mark.parametrize(("cameras", "is_enabled", "warnings"), [(1, True, 1), (2, True, 0), (1, False, 0)])
def test_a_camera_loss_of_images_of_one_camera_is_warned_of_once(
    make_pisl, batch, caplog, cameras, is_enabled, warnings
):
    model = make_pisl("PISL.CAM.ENABLED", is_enabled, "PISL.PSC.KNN", 3)
    task = model.epoch_tasks()[0]
    for _ in range(2):
        task._take(labelling_of(model, {**batch, "camids": batch["camids"] % cameras}))
    assert caplog.text.count("all images are of one camera") == warnings


def test_the_epoch_counts_where_the_images_are_not_labelled_anew(make_pisl):
    model = make_pisl("CLUSTER.PERIOD", 3)
    task = model.epoch_tasks()[0]
    assert not task.is_due(5) and model.state.epoch == 5


def test_training_without_labels_says_what_to_do(make_pisl, batch):
    model = make_pisl()
    model.state.num_clusters = 0
    with pytest.raises(ConfigError, match="PISL trains on clusters, which its epoch task makes"):
        model.train()(batch)


def test_the_state_of_an_epoch_is_restored(make_pisl):
    state = make_pisl().state
    again = EpochState()
    again.load_state_dict(state.state_dict())
    assert again.num_clusters == CLUSTERS and torch.equal(again.scores, state.scores)
    assert torch.equal(again.proxies.features, state.proxies.features)


def test_evaluation_needs_the_global_feature_only(make_pisl, batch):
    model = make_pisl().eval()
    features = model(batch)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(6))
    lean = build_model(evaluation_config_of(pisl_cfg()))
    assert lean.part_heads is None and lean.spatial_diffusion is None
    lean.load_state_dict(lean.adapt_checkpoint(model.state_dict()))
    torch.testing.assert_close(lean.eval()(batch), features)
    for parameter in model.spatial_diffusion.parameters():
        torch.nn.init.normal_(parameter)
    torch.manual_seed(99)
    assert torch.equal(model(batch["images"]), features)


def test_maps_that_are_too_small(make_pisl, batch):
    keys = ("INPUT.SIZE_TRAIN", [32, 32], "INPUT.SIZE_TEST", [32, 32])
    model, small = make_pisl(*keys), {**batch, "images": batch["images"][:, :, :32, :32]}
    with pytest.raises(ConfigError, match="at least 3 x 3 pixels, the backbone gives 1 x 1: take larger images"):
        model.train()(small)
    model = make_pisl(*keys, "PISL.SDM.PATCH_SOURCE", "stripes")
    for is_training, call in ((True, model), (False, PartExtractor(model))):
        model.train(is_training)
        with pytest.raises(ConfigError, match="3 stripes .PISL.NUM_PARTS. need maps of as many rows, .* gives 1: take"):
            call(small)


def released_cfg():
    cfg = get_cfg()
    cfg.merge_from_file(str(ROOT / "configs/_base_/pisl_released.yml"))
    cfg.merge_from_list([*TINY, "PISL.DIFF.SAMPLE_STEPS", 120])
    return cfg


def test_the_released_overlay_trains_and_extracts(batch):
    model = give_labels(build_model(released_cfg()))
    losses, _ = step(model, batch)
    assert all(loss.isfinite() for loss in losses.values())
    rows = PartExtractor(model.eval())(batch)
    assert rows.isfinite().all()


def test_each_released_field_is_what_it_says(make_pisl, batch):
    """One field at a time against the default: what it changes, and nothing else."""
    plain = make_pisl()
    shifts = plain.spatial_diffusion.localizer.output.bias.view(3, 2, 3)[:, 1, 2]
    torch.testing.assert_close(shifts.detach(), torch.tensor([-2 / 3, 0, 2 / 3]))
    flat = make_pisl("PISL.SDM.INIT", "released").spatial_diffusion.localizer.output.bias.view(3, 2, 3)
    assert torch.equal(flat[:, 0], flat[:, 1])  # rank one

    moved = {}
    for name, keys in {
        "own": (),
        "shared": ("PISL.SDM.SHARED_BN", True),
        "twice": ("PISL.SCD.SECOND_PASS", True),
        "shared_stripes": ("PISL.SDM.SHARED_BN", True, "PISL.SDM.PATCH_SOURCE", "stripes"),
        "twice_without_loss": ("PISL.SCD.SECOND_PASS", True, "PISL.SCD.WEIGHT", 0.0),
    }.items():
        model = make_pisl(*keys)
        losses, _ = step(model, batch)
        backbone = next(m for m in model.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))
        neck, part = model.heads.bottleneck[0], model.part_heads.necks[0]
        moved[name] = [int(m.num_batches_tracked) for m in (neck, part, backbone)], losses["loss_part"].item()
    assert moved["own"][0] == [1, 1, 1] and moved["shared"][0] == [4, 1, 1] and moved["twice"][0] == [1, 1, 2]
    assert moved["shared_stripes"][0] == [4, 1, 1] and moved["twice_without_loss"][0] == [1, 1, 2]
    assert moved["twice"][1] == moved["own"][1] != moved["shared"][1]


def test_the_condition_of_the_released_sampler_has_unit_length(make_pisl, batch):
    for keys, length in (((), 30.0), (("PISL.DIFF.SAMPLE_NORMALIZED", True), 1.0)):
        diffusion, seen = make_pisl(*keys).eval().spatial_diffusion, []
        diffusion.denoiser.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(given[2]))
        diffusion.sample(F.normalize(torch.randn(6, diffusion.denoiser.feature_dim)) * 30, batch)
        torch.testing.assert_close(seen[0].tokens[:, 0].norm(dim=1), torch.full((6,), length))


@pytest.mark.parametrize("source", ["denoised", "noisy", "init"])
def test_patches_come_from_their_source(make_pisl, batch, source, monkeypatch):
    model, seen = make_pisl("PISL.SDM.PATCH_SOURCE", source), []
    pool = pisl.pooled_patches
    monkeypatch.setattr(
        pisl, "pooled_patches", lambda maps, theta, pad: (seen.append(theta), pool(maps, theta, pad))[1]
    )
    _, features = model.heads.embed(maps := model.backbone(model.preprocess_image(batch)))
    _, diffused = model._patches(maps, features, batch)
    assert torch.equal(
        seen[0], {"denoised": diffused.denoised, "noisy": diffused.noisy, "init": diffused.clean}[source]
    )
    model.eval().describe(batch)
    maps = model.backbone(model.preprocess_image(batch))
    placed = model.spatial_diffusion.localizer(maps)
    sampled = model.spatial_diffusion.sample(model.heads.embed(maps)[1], batch)
    torch.testing.assert_close(seen[1], placed if source == "init" else sampled)


def test_rows_beyond_the_clusters_do_not_count(make_pisl, batch):
    model = make_pisl()
    first = step(model, batch)[0]["loss_cls"].item()
    with torch.no_grad():
        model.heads.weight[CLUSTERS:] += 100
        model.part_heads.classifiers[:, CLUSTERS:] += 100
    assert step(model, batch)[0]["loss_cls"].item() == pytest.approx(first, rel=1e-6)
    assert len(model.heads.weight) == ROWS


def test_the_clusters_after_training_need_no_parts(make_pisl, batch):
    model = make_pisl().eval()
    rows, whole = (PartExtractor(model, with_parts=with_parts)(batch) for with_parts in (True, False))
    assert whole.shape[1] < rows.shape[1] and torch.equal(whole, rows[:, : whole.shape[1]])
    assert not model.epoch_tasks()[0]._exported.with_parts
