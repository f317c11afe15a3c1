"""Stage 2 with an encoder that trains too, learnt starting noise, and losses on generated vectors."""

import pytest
import torch

from fastreid.config import ConfigError
from fastreid.methods.sd_reid.generated_losses import GeneratedLosses
from fastreid.methods.sd_reid.start_noise import StartNoise
from fastreid.modeling.losses import cross_entropy_loss, triplet_loss
from fastreid.solver import build_optimizer
from tests.methods.sd_reid.test_generators import MLP, OF_ALL, WHITE, indexed, run_tasks
from tests.modeling import toys

JOINT = ("MODEL.SDMODEL.JOINT_TRAINING", True)
NO_NULL = ("MODEL.SDMODEL.U_COND_PERCENT", 0.0)
GENERATED = ("MODEL.SDMODEL.GENERATED_CE", 0.5, "MODEL.SDMODEL.GENERATED_TRIPLET", 2.0)
LEARNT = ("MODEL.SDMODEL.LEARNT_NOISE", True)
ALL = (*MLP, *WHITE, *OF_ALL, "MODEL.SDMODEL.WHITEN_CONDITIONS", False, "MODEL.SDMODEL.LINEAR_MEAN", True)


def losses_of(model, seed=0):
    torch.manual_seed(seed)
    return model.train()(indexed())


def step(model, optimizer, seed):
    optimizer.zero_grad()
    sum(losses_of(model, seed).values()).backward()
    optimizer.step()


def test_an_encoder_that_trains_has_the_losses_of_stage1_and_train_mode(make_stage2):
    model, frozen = make_stage2(*ALL, *JOINT), make_stage2(*ALL)
    for each in (model, frozen):
        run_tasks(each)
    joint, alone = losses_of(model), losses_of(frozen)
    assert joint.keys() - alone.keys() == {"loss_identity", "loss_triplet", "loss_view"}
    assert model.person.training and model.person.backbone.training and not frozen.person.training
    assert not model.eval().person.training


def test_the_generators_loss_reaches_the_encoder_through_the_conditions_only(make_stage2):
    model = make_stage2(*ALL, *JOINT)
    for parameter in model.denoiser.parameters():
        parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    run_tasks(model)
    losses_of(model)["loss_diffusion"].backward()
    reached = {name for name, p in model.person.named_parameters() if p.grad is not None and p.grad.any()}
    assert any("blocks.0" in name for name in reached)
    # The last block makes the targets, which carry no gradient; conditions come from earlier ones.
    assert not any("blocks.5" in name for name in reached) and not any("head" in name for name in reached)


@pytest.mark.parametrize("target", ["person_in_view", "same_person_in_view"])
def test_targets_of_the_batch_carry_no_gradient_either(make_stage2, target):
    model = make_stage2(*MLP, *JOINT, "MODEL.SDMODEL.TARGET", target, "MODEL.SDMODEL.VIEW_CENTRE_PERCENT", 0.0)
    run_tasks(model)
    losses_of(model)["loss_diffusion"].backward()
    assert not any(p.grad is not None and p.grad.any() for p in model.person.backbone.vit.blocks[5].parameters())


def test_everything_that_trains_has_a_gradient(make_stage2):
    model = make_stage2(*ALL, *JOINT, *LEARNT, *NO_NULL, *GENERATED)
    run_tasks(model)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
    for seed in range(3):
        step(model, optimizer, seed)
    without = {n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    assert not without - {"condition_learner.null"}  # no row is null


def test_the_encoder_and_its_statistics_move_and_the_view_centres_follow(make_stage2):
    model = make_stage2(*ALL, *JOINT)
    run_tasks(model)
    before = {name: value.clone() for name, value in model.person.state_dict().items()}
    step(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-2), 0)
    after = model.person.state_dict()
    for name in ("memory.centres", "identity_head.bottleneck.running_mean", "identity_head.classifier.weight"):
        assert not torch.equal(before[name], after[name]), name


def test_the_encoder_trains_at_a_rate_of_its_own(make_stage2, assets):
    cfg = toys.stage2_cfg(assets, *ALL, *JOINT, "MODEL.SDMODEL.ENCODER_LR_FACTOR", 0.02, "SOLVER.BASE_LR", 0.1)
    model = make_stage2(*ALL, *JOINT)
    rates = {id(p): g["lr"] for g in build_optimizer(cfg, model).param_groups for p in g["params"]}
    of = {name: rates[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert {round(rate, 9) for name, rate in of.items() if name.startswith("person.")} == {0.002}
    assert {rate for name, rate in of.items() if not name.startswith("person.")} == {0.1}


def test_statistics_are_taken_again_before_every_epoch_of_an_encoder_that_trains(make_stage2):
    assert [[t.is_due(e) for e in range(3)] for t in make_stage2(*ALL, *JOINT).epoch_tasks()] == [[True] * 3] * 2
    assert [[t.is_due(e) for e in range(3)] for t in make_stage2(*ALL).epoch_tasks()] == [[True, False, False]] * 2


def test_a_stage1_that_leaves_out_a_loss_freezes_its_head_here_too(make_stage2):
    model = make_stage2(*ALL, *JOINT, "MODEL.LOSSES.CE.VIEW_ID", False)
    run_tasks(model)
    assert "loss_view" not in losses_of(model)
    assert not any(p.requires_grad for p in model.person.view_head.parameters())


def test_learnt_noise_starts_as_standard_noise_and_its_divergence_has_the_closed_form():
    noise = StartNoise(6, kl_weight=3.0)
    latents, normal = torch.randn(4, 6), torch.randn(4, 6)
    drawn, divergence = noise.draw(latents, normal)
    assert torch.equal(drawn, normal) and divergence == 0
    for layer in (noise.mean, noise.log_variance):
        torch.nn.init.normal_(layer.weight, std=0.3)
    drawn, divergence = noise.draw(latents, normal)
    mean, deviation = noise.mean(latents), (0.5 * noise.log_variance(latents)).exp()
    torch.testing.assert_close(drawn, mean + deviation * normal)
    own = torch.distributions.Normal(mean, deviation)
    standard = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    torch.testing.assert_close(divergence, 3 * torch.distributions.kl_divergence(own, standard).mean())
    assert torch.equal(noise(latents), mean)


def test_sampling_starts_from_the_mean_of_the_image_whatever_the_seed(make_stage2):
    options = (*MLP, *LEARNT, "TEST.SDMODEL.NUM_DRAWS", 2, "MODEL.SDMODEL.WHITEN_CONDITIONS", False)
    models = [make_stage2(*options, "TEST.SDMODEL.NOISE_SEED", seed) for seed in (1, 2)]
    for model in models:
        run_tasks(model)
        for parameter in (*model.denoiser.parameters(), *model.start_noise.parameters()):
            parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    batch = toys.batch()
    with torch.no_grad():
        first, second = (model.eval()(batch) for model in models)
        assert torch.equal(first, second)
        alone = models[0]({name: value[3:4] for name, value in batch.items()})
        torch.testing.assert_close(first[3:4], alone, atol=1e-4, rtol=1e-3)
        models[0].start_noise.mean.weight.data.zero_()
        models[0].start_noise.mean.bias.data.zero_()
        assert not torch.allclose(models[0](batch), first)


def test_generated_losses_are_over_real_and_generated_vectors_together():
    losses = GeneratedLosses(6, 3, ce_weight=0.5, triplet_weight=2.0)
    real, generated, people = torch.randn(4, 6), torch.randn(4, 6), torch.tensor([0, 0, 1, 2])
    both, labels = torch.cat([real, generated]), torch.cat([people, people])
    found = losses(real, generated, people)
    torch.testing.assert_close(
        found["loss_generated_identity"], 0.5 * cross_entropy_loss(losses.classifier(both), labels, eps=0.0)
    )
    torch.testing.assert_close(found["loss_generated_triplet"], 2 * triplet_loss(both, labels, 0.0, False, True))
    only = GeneratedLosses(6, 3, ce_weight=0.0, triplet_weight=1.0)
    assert list(only(real, generated, people)) == ["loss_generated_triplet"] and not list(only.parameters())


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
def test_the_generated_vectors_are_the_clean_estimates_with_the_mean(make_stage2, monkeypatch, prediction):
    model = make_stage2(*ALL, *NO_NULL, *GENERATED, "MODEL.SDMODEL.PREDICTION_TYPE", prediction)
    run_tasks(model)
    seen, means, targets = [], [], []
    schedule, mean = model.schedule, type(model)._mean

    def denoise(noisy, timesteps, condition):  # a network that predicts without an error
        return targets[-1]

    def add_noise(clean, noise, timesteps):
        targets.append(schedule.target(clean, noise, timesteps))
        return type(schedule).add_noise(schedule, clean, noise, timesteps)

    monkeypatch.setattr(schedule, "add_noise", add_noise)
    monkeypatch.setattr(model.denoiser, "forward", denoise)
    monkeypatch.setattr(model.generated_losses, "forward", lambda *given: seen.append(given) or {})
    monkeypatch.setattr(type(model), "_mean", lambda self, *given: means.append(mean(self, *given)) or means[-1])
    drawn, draw = [], model.memory.draw
    monkeypatch.setattr(model.memory, "draw", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    losses_of(model)
    real, generated, people = seen[0]
    torch.testing.assert_close(generated, drawn[0].latents, atol=1e-3, rtol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(real, model._encode(model.person(indexed()["images"]).identity))
    assert people.tolist() == indexed()["targets"].tolist()


def test_without_the_keys_the_losses_have_the_same_bits(make_stage2):
    plain, learnt = make_stage2(*ALL), make_stage2(*ALL, *LEARNT)
    for model in (plain, learnt):
        run_tasks(model)
    learnt.denoiser.load_state_dict(plain.denoiser.state_dict())
    learnt.view_decoder.load_state_dict(plain.view_decoder.state_dict())
    learnt.condition_learner.load_state_dict(plain.condition_learner.state_dict())
    # Learnt noise starts as the noise without it, and draws no other random number.
    assert torch.equal(losses_of(plain)["loss_diffusion"], losses_of(learnt)["loss_diffusion"])
    assert list(losses_of(plain)) == ["loss_diffusion"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((*JOINT, "MODEL.SDMODEL.FEATURE_CACHE", "cache"), "stores the features of a frozen encoder"),
        ((*GENERATED, *NO_NULL), "PREDICTION_TYPE sample or v_prediction"),
        ((*MLP, *GENERATED, "MODEL.SDMODEL.U_COND_PERCENT", 0.1), r"U_COND_PERCENT 0\.0"),
        (("TEST.SDMODEL.VIEW_WEIGHTS", [0.5, 1.0, 2.0]), "2 views are generated: give one weight for each"),
    ],
)
def test_keys_that_do_not_fit_each_other_say_so(make_stage2, options, message):
    with pytest.raises(ConfigError, match=message):
        make_stage2(*options)
