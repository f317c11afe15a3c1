"""Denoisers of vectors: how they start, what they depend on, and that they learn."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from fastreid.modeling.diffusion import MLPDenoiser, OptionError, Sampler, Schedule, TransformerDenoiser, VectorLatent
from fastreid.modeling.diffusion.guidance import get_guidance
from fastreid.structures import Condition, ControlMaps

DIM, TOKENS, VIEWS, WIDTH = 12, 3, 2, 16
SIZES = {"dim": DIM, "num_tokens": TOKENS, "num_views": VIEWS}


def make(kind, **options):
    torch.manual_seed(0)
    if kind == "mlp":
        return MLPDenoiser(**SIZES, **{"width": WIDTH, "depth": 2, "dropout": 0.0, **options})
    return TransformerDenoiser(**SIZES, **{"depth": 2, "num_heads": 3, "dropout": 0.0, **options})


@pytest.fixture(params=["mlp", "transformer"])
def denoiser(request):
    return make(request.param).eval()


def condition(denoiser, rows=4, seed=0, view=True):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(rows, TOKENS, DIM, generator=generator)
    embedding = torch.randn(rows, denoiser.control_dim, generator=generator)
    return Condition(tokens, ControlMaps((embedding,), ()) if view else None)


def disturb(denoiser):
    """Weights that no longer start at zero."""
    generator = torch.Generator().manual_seed(5)
    for parameter in denoiser.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return denoiser


def noisy(rows=4):
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(9))


def test_the_prediction_starts_at_zero(denoiser):
    assert not denoiser(noisy(), torch.arange(4), condition(denoiser)).any()


def test_the_prediction_depends_on_every_input(denoiser):
    disturb(denoiser)
    given = condition(denoiser)
    plain = denoiser(noisy(), torch.tensor(3), given)
    other = condition(denoiser, seed=1)
    changed = {
        "noise": denoiser(noisy() + 1, torch.tensor(3), given),
        "time": denoiser(noisy(), torch.tensor(4), given),
        "tokens": denoiser(noisy(), torch.tensor(3), Condition(other.tokens, given.control)),
        "view": denoiser(noisy(), torch.tensor(3), Condition(given.tokens, other.control)),
        "no view": denoiser(noisy(), torch.tensor(3), Condition(given.tokens)),
    }
    for name, prediction in changed.items():
        assert not torch.allclose(prediction, plain), name


def test_rows_do_not_depend_on_each_other(denoiser):
    disturb(denoiser)
    given, times = condition(denoiser), torch.tensor([0, 5, 50, 500])
    together = denoiser(noisy(), times, given)
    alone = [denoiser(noisy()[i : i + 1], times[i : i + 1], given.rows(i, i + 1)) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone))
    same_time = denoiser(noisy(), torch.tensor(7), given)
    torch.testing.assert_close(same_time, denoiser(noisy(), torch.full((4,), 7), given))


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_dropout_acts_in_training_only(kind):
    denoiser = disturb(make(kind, dropout=0.5))
    inputs = noisy(), torch.tensor(3), condition(denoiser)
    assert torch.equal(denoiser.eval()(*inputs), denoiser(*inputs))
    assert not torch.equal(denoiser.train()(*inputs), denoiser(*inputs))


def test_a_linear_map_of_each_view_is_learnt(denoiser):
    generator = torch.Generator().manual_seed(3)
    maps = torch.randn(VIEWS, TOKENS * DIM, DIM, generator=generator) / 6
    embeddings = torch.randn(VIEWS, denoiser.control_dim, generator=generator)
    optimizer = torch.optim.Adam(denoiser.parameters(), 1e-2)
    for _ in range(300):
        views = torch.randint(VIEWS, (64,), generator=generator)
        tokens = torch.randn(64, TOKENS, DIM, generator=generator)
        target = torch.einsum("bf,bfd->bd", tokens.flatten(1), maps[views])
        given = Condition(tokens, ControlMaps((embeddings[views],), ()))
        loss = F.mse_loss(denoiser(torch.zeros(64, DIM), torch.tensor(0), given), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * target.pow(2).mean()


def test_all_parameters_get_gradients_once_the_zeros_have_moved(denoiser):
    disturb(denoiser)
    denoiser(noisy(), torch.arange(4), condition(denoiser)).pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in denoiser.parameters())


def test_they_work_on_vectors_as_they_are(denoiser):
    assert denoiser.latent_of(DIM) == VectorLatent(DIM) and denoiser.context_dim == DIM
    latent = VectorLatent(DIM)
    assert torch.equal(latent.unfold(latent.fold(noisy())), noisy()) and latent.shape == (DIM,)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm++"])
def test_they_sample_without_assets(denoiser, solver):
    schedule = Schedule.from_pretrained("", solver=solver, num_timesteps=100)
    assert schedule.prediction_type == "sample"
    sampler = Sampler(schedule, 5, get_guidance("full"))
    noise = torch.randn(sampler.noise_steps, 4, DIM)
    samples = sampler.sample(denoiser, condition(denoiser), None, noise)
    assert samples.shape == (4, DIM) and samples.abs().max() < 1e-2  # the clean vector is predicted to be 0


def test_heads_must_divide_the_dimension():
    with pytest.raises(OptionError, match="num_heads=5 does not divide the feature dimension 12"):
        make("transformer", num_heads=5)


def test_the_cost_at_true_size_is_that_of_the_documentation():
    denoiser = MLPDenoiser(dim=768, num_tokens=11, num_views=2, width=1024, depth=3, dropout=0.0).eval()
    given = Condition(torch.randn(1, 11, 768), ControlMaps((torch.randn(1, 1024),), ()))
    with FlopCounterMode(display=False) as counter:
        denoiser(torch.randn(1, 768), torch.tensor(0), given)
    assert 1e6 < counter.get_total_flops() / 2 < 50e6
