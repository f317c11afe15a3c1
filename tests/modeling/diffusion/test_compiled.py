"""Sampling is one graph, and micro-batches of one size are compiled once."""

import pytest
import torch

from fastreid.modeling.diffusion import MLPDenoiser, UNetDenoiser
from fastreid.modeling.diffusion.compiled import CompiledPrediction
from fastreid.modeling.diffusion.guidance import NullCondition, get_guidance
from fastreid.modeling.diffusion.sampling import Sampler
from fastreid.structures import Condition, ControlMaps
from fastreid.utils import compiling
from tests.modeling.diffusion.test_sampling import condition_for, run
from tests.modeling.diffusion.test_schedule import make

SOLVERS = ("ddpm", "ddim", "pndm", "euler", "dpm++")


def whole_graph(function):
    return torch.compile(function, backend="eager", fullgraph=True, dynamic=False)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_loop_has_no_graph_break(solver):
    sampler = Sampler(make(solver), num_steps=2, guidance=get_guidance("uc_full"), micro_batch=4)
    condition = condition_for(3)
    null = NullCondition(torch.zeros_like(condition.tokens), drops_down=True)
    noise = torch.randn(sampler.noise_steps, 3, 4, 8, 6)

    def sample(noise):
        return sampler.sample(lambda rows, time, of: 0.1 * rows + of.tokens.mean(), condition, null, noise)

    with torch.inference_mode():
        torch.testing.assert_close(whole_graph(sample)(noise), sample(noise))


def test_the_unet_has_no_graph_break(assets):
    denoiser = UNetDenoiser.from_pretrained(str(assets / "unet")).eval()
    maps = tuple(torch.randn(2, 32, size, size * 3 // 4) for size in (8, 4))
    condition = Condition(torch.randn(2, 6, 192), ControlMaps(maps, maps))
    noisy, time = torch.randn(2, 4, 8, 6), torch.tensor(7)
    with torch.inference_mode():
        found = whole_graph(denoiser)(noisy, time, condition)
        torch.testing.assert_close(found, denoiser(noisy, time, condition))


def test_the_mlp_has_no_graph_break():
    denoiser = MLPDenoiser(dim=8, num_tokens=2, num_views=2, width=16, depth=1, dropout=0.0).eval()
    view = torch.randn(3, denoiser.control_dim)
    condition = Condition(torch.randn(3, 2, 8), ControlMaps((view,), ()))
    noisy, time = torch.randn(3, 8), torch.tensor(7)
    torch.testing.assert_close(whole_graph(denoiser)(noisy, time, condition), denoiser(noisy, time, condition))


@pytest.fixture
def graphs(monkeypatch):
    """A list that grows with each graph that is compiled."""
    made = []
    monkeypatch.setattr(compiling, "BACKEND", lambda graph, inputs: made.append(graph) or graph.forward)
    torch.compiler.reset()
    yield made
    torch.compiler.reset()


def test_all_full_parts_use_one_graph_and_the_last_part_none(graphs):
    compiled, seen = CompiledPrediction(3), []

    def predict(noisy, timestep, condition):
        if not torch.compiler.is_compiling():
            seen.append(len(noisy))
        return 0.1 * noisy + timestep / 1000 + condition.tokens.mean(dim=(1, 2)).view(-1, 1, 1, 1)

    expected = run(predict, micro_batch=3)
    seen.clear()
    torch.manual_seed(0)
    found = run(predict, micro_batch=3, compiled=compiled)
    assert len(graphs) == 1 and seen == [2] * 5
    assert found.shape == expected.shape


@pytest.mark.parametrize(("limit", "size"), [(0, 8), (3, 3), (100, 8)])
def test_the_size_is_that_of_a_micro_batch_or_of_a_full_batch(limit, size):
    sampler = Sampler(make("ddim"), num_steps=2, guidance=get_guidance("uc_full"), micro_batch=limit)
    compiled = sampler.with_compiled(4)
    assert compiled.micro_batch == compiled.compiled.size == size
    assert sampler.compiled is None


def test_results_are_the_same_with_a_compiled_call(graphs):
    sampler = Sampler(make("ddim"), num_steps=3, guidance=get_guidance("uc_full"))
    condition, noise = condition_for(4), torch.randn(1, 4, 4, 8, 6)
    null = NullCondition(torch.zeros_like(condition.tokens))

    def predict(noisy, timestep, condition):
        return (
            noisy.tanh() * 0.3
            + condition.control.down[0].mean()
            + condition.tokens.mean(dim=(1, 2))[:, None, None, None]
        )

    expected = sampler.sample(predict, condition, null, noise)
    for rows in (4, 3):  # of the second one all parts but the last are full
        found = sampler.with_compiled(rows).sample(predict, condition, null, noise)
        torch.testing.assert_close(found, expected)
    assert len(graphs) == 2
