"""Stage 2: what trains, what stays, what control does, and what a descriptor depends on."""

import pytest
import torch

from fastreid.config import ConfigError
from fastreid.modeling import build_model
from fastreid.modeling.diffusion import Sampler, Schedule
from fastreid.solver.ema import WeightAverage
from fastreid.utils.draws import BatchDraws
from fastreid.utils.weights import WeightsError, load_weights
from tests.modeling import toys

# Descriptors that are the generated features as they are.
RAW = (
    "TEST.SDMODEL.PARTS",
    ("generated",),
    "TEST.SDMODEL.FUSION",
    "concat",
    "TEST.SDMODEL.GENERATED_NECK",
    False,
    "MODEL.SDMODEL.STANDARDIZE_LATENT",
    False,
)
SOLVE = "MODEL.SDMODEL.SCHEDULER_CONFIG.NAME"


def step(model, batch, optimizer):
    model.train()
    model(batch)["loss_diffusion"].backward()
    optimizer.step()


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def without_gradient(model, batch):
    model.train()
    for _ in range(8):  # null rows and centres are drawn
        model(batch)["loss_diffusion"].backward()
    return {name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}


def test_gradients_reach_all_that_must_train_and_nothing_else(make_stage2):
    model = make_stage2("MODEL.SDMODEL.MID_RESIDUAL", "learnt", "MODEL.SDMODEL.U_COND_PERCENT", 0.5)
    assert not without_gradient(model, toys.batch())
    assert all(p.grad is None for p in model.person.parameters())
    assert not any(name.startswith("person.") for name in trainable(model))


def test_only_the_chosen_attentions_of_the_unet_train(make_stage2):
    model = make_stage2(
        "MODEL.SDMODEL.UNET_CONFIG.TRAIN",
        "cross_attention_kv",
        "MODEL.SDMODEL.UNET_CONFIG.TRAINABLE_BLOCK_IDX",
        [7, 6, 4, 3],
    )
    in_unet = {name for name in trainable(model) if name.startswith("denoiser.")}
    assert in_unet and all(".attn2.to_k" in name or ".attn2.to_v" in name for name in in_unet)
    assert not without_gradient(model, toys.batch())


def test_released_decoder_maps_never_train(make_stage2):
    model = make_stage2("MODEL.SDMODEL.VIEW_CONTROL", "down", "MODEL.SDMODEL.U_COND_PERCENT", 0.5)
    assert not without_gradient(model, toys.batch())  # several processes would wait for it
    frozen = {name for name, parameter in model.view_decoder.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"up.{level}.{kind}" for level in (0, 1) for kind in ("weight", "bias")}


def test_frozen_stage1_stays_bit_identical(make_stage2):
    model = make_stage2()
    before = {name: value.clone() for name, value in model.person.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    for seed in range(3):
        step(model, toys.batch(seed=seed), optimizer)
    assert not model.person.training
    after = model.person.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def embed(model, batch):
    with torch.inference_mode():
        return model.eval()(batch)


def rows_of(batch, indices):
    return {k: v[indices] if torch.is_tensor(v) else [v[i] for i in indices] for k, v in batch.items()}


@pytest.mark.parametrize("noise", ["shared", "image", "name", "zeros"])
@pytest.mark.parametrize("solver", ["ddpm", "ddim", "pndm", "euler"])
def test_a_feature_depends_on_its_image_only(make_stage2, noise, solver):
    batch, order = toys.batch(), [6, 1, 4]
    options = ("TEST.SDMODEL.NOISE", noise, SOLVE, solver)
    whole = embed(make_stage2(*options), batch)
    part = embed(make_stage2(*options), rows_of(batch, order))
    assert whole.shape == (8, (1 + toys.NUM_VIEWS) * toys.FEATURE_DIM)
    torch.testing.assert_close(whole[order], part, rtol=1e-3, atol=1e-4)


def test_released_noise_depends_on_the_batch(make_stage2):
    batch = toys.batch()
    model = make_stage2("TEST.SDMODEL.NOISE", "fresh")
    assert not torch.allclose(embed(model, batch), embed(model, batch))


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(make_stage2):
    batch = toys.batch()
    first, second = embed(make_stage2(), batch), embed(make_stage2(), batch)
    assert torch.equal(first, second)
    assert not torch.equal(first, embed(make_stage2("TEST.SDMODEL.NOISE_SEED", 5), batch))


def test_training_is_reproducible_from_the_seed(make_stage2):
    def loss():
        model = make_stage2().train()
        torch.manual_seed(4)
        return model(toys.batch())["loss_diffusion"]

    assert torch.equal(loss(), loss())


def test_the_micro_batch_changes_memory_not_features(make_stage2):
    batch = toys.batch()
    small = embed(make_stage2("TEST.SDMODEL.MICRO_BATCH", 5), batch)
    torch.testing.assert_close(embed(make_stage2(), batch), small, rtol=1e-3, atol=1e-4)


def test_views_are_generated_each_from_its_own_centre(make_stage2):
    model, batch = make_stage2(), toys.batch()
    generated = embed(model, batch).view(8, 3, -1)[:, 1:]
    with torch.no_grad():
        model.person.memory.centres[1] += torch.randn(toys.FEATURE_DIM)
    moved = embed(model, batch).view(8, 3, -1)[:, 1:]
    assert torch.equal(generated[:, 0], moved[:, 0]) and not torch.allclose(generated[:, 1], moved[:, 1])


def test_draws_are_averaged(make_stage2, monkeypatch):
    model = make_stage2("TEST.SDMODEL.NUM_DRAWS", 3, *RAW)
    batch = toys.batch()
    samples = []
    sample = type(model.sampler).sample
    monkeypatch.setattr(type(model.sampler), "sample", lambda *args: samples.append(sample(*args)) or samples[-1])
    generated = embed(model, batch).view(8, toys.NUM_VIEWS, -1)
    draws = samples[0].flatten(1).view(8, toys.NUM_VIEWS, 3, -1)
    assert not torch.allclose(draws[:, :, 0], draws[:, :, 1])
    torch.testing.assert_close(generated, draws.mean(dim=2))


def test_a_view_without_a_centre_is_not_generated(make_stage2):
    model = make_stage2()
    model.person.memory.seen[1] = False
    with pytest.raises(ValueError, match=r"views \[1\] have no centre"):
        embed(model, toys.batch())


def test_the_release_leaves_out_later_views(make_stage2):
    assert embed(make_stage2("TEST.SDMODEL.NUM_VIEWS", 1), toys.batch()).shape[1] == 2 * toys.FEATURE_DIM


def test_the_null_condition_of_sampling_is_the_learnt_one_unless_zeros_are_asked_for(make_stage2):
    batch = toys.batch()
    models = {kind: make_stage2("MODEL.SDMODEL.NULL_CONDITION", kind) for kind in ("learnt", "zeros")}
    before = {kind: embed(model, batch) for kind, model in models.items()}
    for model in models.values():
        with torch.no_grad():
            model.condition_learner.null.normal_()
    assert not torch.allclose(embed(models["learnt"], batch), before["learnt"])
    assert torch.equal(embed(models["zeros"], batch), before["zeros"])


def test_training_sees_view_tokens_and_centres(make_stage2, monkeypatch):
    """With VIEW_CENTRE_PERCENT the control's source is the centre for that share of the images."""
    model, seen = make_stage2("MODEL.SDMODEL.VIEW_CENTRE_PERCENT", 0.25), []
    forward = model.view_decoder.forward
    monkeypatch.setattr(model.view_decoder, "forward", lambda tokens: seen.append(tokens) or forward(tokens))
    torch.manual_seed(0)
    for _ in range(60):
        model.train()(toys.batch())
    tokens = torch.cat(seen)
    centres = model.person.memory.centres
    share = (tokens[:, None] == centres[None]).all(dim=-1).any(dim=1).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.06)


def test_generated_features_can_pass_the_neck(make_stage2):
    parts = RAW
    raw, model = embed(make_stage2(*parts), toys.batch()), make_stage2(*parts, "TEST.SDMODEL.GENERATED_NECK", True)
    with torch.no_grad():
        model.person.identity_head.bottleneck.running_mean.fill_(1.0)
    neck = embed(model, toys.batch())
    torch.testing.assert_close(neck, (raw - 1) / (1 + 1e-5) ** 0.5, rtol=1e-4, atol=1e-4)


def test_standardized_latents_have_unit_variance_and_generated_features_their_own_scale(make_stage2, monkeypatch):
    model = make_stage2(*RAW, "MODEL.SDMODEL.STANDARDIZE_LATENT", True)
    features = torch.randn(400, toys.FEATURE_DIM) * 0.3 + 5
    bottleneck = model.person.identity_head.bottleneck
    bottleneck.running_mean.copy_(features.mean(dim=0))
    bottleneck.running_var.copy_(features.var(dim=0))
    latent = model.person.standardize(features)
    torch.testing.assert_close(latent.std(dim=0), torch.ones(toys.FEATURE_DIM), rtol=1e-3, atol=0)
    torch.testing.assert_close(model.person.destandardize(latent), features)
    generated = embed(model, toys.batch())
    assert abs(generated.mean().item() - 5) < 1


def test_person_features_alone_need_no_sampling(make_stage2, monkeypatch):
    model = make_stage2("TEST.SDMODEL.PARTS", ("person",))
    monkeypatch.setattr(model, "denoiser", None)
    assert embed(model, toys.batch()).shape == (8, toys.FEATURE_DIM)


def test_a_learnt_middle_residual_needs_decoder_control(make_stage2):
    with pytest.raises(ConfigError, match="MID_RESIDUAL"):
        make_stage2("MODEL.SDMODEL.MID_RESIDUAL", "learnt", "MODEL.SDMODEL.VIEW_CONTROL", "down")


@pytest.fixture
def stage1_file(tmp_path):
    torch.manual_seed(7)
    model = build_model(toys.stage1_cfg(), num_classes=9)
    toys.fill_memory(model)
    torch.save({"model": model.state_dict()}, tmp_path / "model_best.pth")
    return tmp_path / "model_best.pth", model


def test_a_stage1_checkpoint_fills_the_whole_person(make_stage2, stage1_file):
    path, stage1 = stage1_file
    model = make_stage2()
    report = load_weights(model, path)
    assert not [name for name in report.missing if name.startswith("person.")]
    for name, value in stage1.person.state_dict().items():
        if not name.endswith("identity_head.classifier.weight"):  # 9 people there, 4 here
            assert torch.equal(model.person.state_dict()[name], value), name


def test_a_stage1_checkpoint_is_not_evaluated_as_stage2(make_stage2, stage1_file):
    with pytest.raises(WeightsError, match=r"no checkpoint of a trained SDReIDStage2, it lacks .*condition_learner"):
        load_weights(make_stage2(), stage1_file[0], to_evaluate=True)


def test_a_stage1_checkpoint_without_its_memory_is_refused(make_stage2, stage1_file):
    path, stage1 = stage1_file
    state = {name: value for name, value in stage1.state_dict().items() if ".memory." not in name}
    torch.save({"model": state}, path)
    with pytest.raises(WeightsError, match=r"person\.memory\.centres"):
        load_weights(make_stage2(), path)


def test_checkpoints_leave_out_the_frozen_unet_and_come_back(make_stage2):
    lora = ("MODEL.SDMODEL.UNET_CONFIG.TRAIN", "lora")
    model = make_stage2(*lora)
    state = model.checkpoint_state_dict()
    assert any("lora" in name for name in state)
    assert len([name for name in state if name.startswith("denoiser.")]) < len(model.denoiser.state_dict()) / 2
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_()
    other = make_stage2(*lora)
    other.load_checkpoint_state_dict(model.checkpoint_state_dict())
    assert torch.equal(embed(other, toys.batch()), embed(model, toys.batch()))
    with pytest.raises(RuntimeError, match="lacks condition_learner.null"):
        other.load_checkpoint_state_dict({k: v for k, v in state.items() if k != "condition_learner.null"})


def test_an_average_of_the_weights_has_no_copy_of_the_frozen_ones(make_stage2):
    model = make_stage2()
    average = WeightAverage(model, momentum=0.9, warmup=False)
    average.restart()
    copied = set(average.state_dict()["raw"])
    assert trainable(model) <= copied <= model.checkpoint_state_dict().keys()
    assert copied & {name for name, _ in model.named_parameters()} == trainable(model)
    assert average.in_place_of(model.checkpoint_state_dict()).keys() == model.checkpoint_state_dict().keys()


def test_what_a_run_freezes_later_stays_in_its_checkpoints(make_stage2):
    model = make_stage2()
    names = model.checkpoint_state_dict().keys()
    model.denoiser.requires_grad_(False)
    assert model.checkpoint_state_dict().keys() == names


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("MODEL.SDMODEL.TARGET", "same_person", "did you mean 'same_person_in_view'"),
        ("MODEL.SDMODEL.NULL_CONDITION", "learned", "did you mean 'learnt'"),
        ("MODEL.SDMODEL.VIEW_CONTROL", "up", "Legal: down_and_up, down"),
        ("MODEL.SDMODEL.MID_RESIDUAL", "one", "Legal: zero, learnt"),
        ("MODEL.SDMODEL.SCHEDULER_CONFIG.TIMESTEP_SPACING", "linspace", "Legal: leading, trailing"),
        ("MODEL.SDMODEL.U_COND_PERCENT", 5.0, "chance from 0 to 1, got 5.0"),
        ("MODEL.SDMODEL.VIEW_CENTRE_PERCENT", -0.1, "chance from 0 to 1"),
        ("MODEL.SDMODEL.CON_LEARNER_CONFIG.N_CTX", 12, "N_CTX is 12, backbone and UNet give 6"),
        ("MODEL.SDMODEL.CON_LEARNER_CONFIG.OUT_CHANNELS", [320, 640], r"give \[32, 32, 32, 32\]"),
        ("TEST.SDMODEL.NUM_VIEWS", 3, "VIEW_NUM=2, got 3"),
        ("TEST.SDMODEL.NUM_DRAWS", 0, "1 or more"),
        ("TEST.SDMODEL.MICRO_BATCH", -1, "no limit"),
        ("TEST.SDMODEL.CONTROL_STEPS", "fade", "did you mean 'fading'"),
        ("TEST.SDMODEL.NUM_INFERENCE_STEPS", 0, "1 … MODEL.SDMODEL.TRAIN_STEP"),
        ("MODEL.BACKBONE.DEPTH", "small", "tokens of 192 numbers, the backbone's have 384"),
    ],
)
def test_wrong_settings_fail_at_construction(make_stage2, option, value, message):
    extra = ("MODEL.BACKBONE.FEAT_DIM", 2048)
    with pytest.raises(ConfigError, match=message):
        make_stage2(option, value, *extra)


def test_calibration_whitens_the_encoders_conditions_and_travels_with_the_checkpoint(make_stage2):
    model, untouched = make_stage2(), make_stage2("MODEL.SDMODEL.WHITEN_CONDITIONS", False)
    batches = [toys.batch(32, seed) for seed in range(4)]
    untouched.calibrate(batches)
    assert untouched.whitening is None
    assert [type(task).__name__ for task in model.epoch_tasks()] == ["Calibration"]
    model.calibrate(batches)
    model.eval()
    with torch.no_grad():
        conditions = torch.cat([model.whitening(model.person(b["images"]).id_conditions) for b in batches])
    torch.testing.assert_close(conditions.mean(dim=0), torch.zeros_like(conditions[0]), atol=1e-2, rtol=0)

    again = make_stage2()
    again.load_checkpoint_state_dict(model.checkpoint_state_dict())
    assert torch.equal(again.whitening.map, model.whitening.map)
    with torch.no_grad():
        assert torch.equal(again.eval()(batches[0]), model(batches[0]))
        assert not torch.equal(make_stage2().eval()(batches[0]), model(batches[0]))


def test_diffusion_works_around_the_linear_mean(make_stage2, monkeypatch):
    """Whoever samples zeros gets exactly the regression's vectors; whoever is trained is given what remains."""
    model = make_stage2("MODEL.SDMODEL.LINEAR_MEAN", True, "TEST.SDMODEL.GENERATED_NECK", False)
    assert model.linear_mean.weight.shape == (toys.NUM_VIEWS, 5 * toys.FEATURE_DIM, toys.FEATURE_DIM)
    batches = [toys.batch(32, seed) for seed in range(4)]
    model.calibrate(batches)
    model.eval()
    monkeypatch.setattr(Sampler, "sample", lambda *args: torch.zeros(64, *model.latent.shape))
    batch = batches[0]
    with torch.no_grad():
        features = model.person(batch["images"])
        conditions = model.whitening(features.id_conditions)
        for view in range(toys.NUM_VIEWS):
            means = model.linear_mean(conditions, torch.full((32,), view))
            expected = model.person.destandardize(means)
            torch.testing.assert_close(model.generate(features, batch)[:, view], expected)

        diffused = []

        def add_noise(schedule, clean, noise, timesteps):
            diffused.append(clean)
            return clean

        monkeypatch.setattr(Schedule, "add_noise", add_noise)
        torch.manual_seed(3)
        model._generator_losses(features, batch)
        torch.manual_seed(3)
        chance = BatchDraws.of(batch, model.device).uniform()
        weights, requested = model.target(batch["targets"], batch["viewids"], chance)
        remaining = weights @ model.person.standardize(features.identity) - model.linear_mean(conditions, requested)
        torch.testing.assert_close(diffused[0], model.latent.fold(remaining))
