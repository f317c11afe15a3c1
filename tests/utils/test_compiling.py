"""torch.compile of parts of a model: names, sizes that are not compiled, and what is wrong where it does not work."""

import copy

import pytest
import torch
from torch import nn

from fastreid.utils import compiling
from fastreid.utils.compiling import CompiledForOneSize, compile_module, compiler_problem


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, images):
        return self.layer(images).relu()


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Part()

    def forward(self, batch):
        return self.backbone(batch["images"] if isinstance(batch, dict) else batch)


@pytest.fixture
def graphs(monkeypatch):
    """The number of rows of each graph that is compiled."""
    sizes = []

    def backend(graph, inputs):
        sizes.append(next(len(one) for one in inputs if one.ndim == 2 and one.shape[1] == 4 and len(one) != 3))
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", backend)
    torch.compiler.reset()
    yield sizes
    torch.compiler.reset()


def test_names_stay_and_a_copy_is_a_model_of_its_own(graphs):
    model = Whole()
    names = list(model.state_dict())
    compile_module(model.backbone)
    assert list(model.state_dict()) == names and not graphs
    copied = copy.deepcopy(model)
    nn.init.zeros_(copied.backbone.layer.weight)
    nn.init.ones_(copied.backbone.layer.bias)
    images = torch.randn(5, 4)
    expected = images @ model.backbone.layer.weight.T + model.backbone.layer.bias
    assert torch.equal(copied(images), torch.ones(5, 3))
    torch.testing.assert_close(model(images), expected.relu())
    assert graphs == [5]


def test_evaluation_runs_batches_of_other_sizes_as_they_are_written(graphs):
    model = Whole().eval()
    compile_module(model.backbone)
    CompiledForOneSize(6).add_to(model)
    for size in (2, 6, 5, 7, 6, 1):
        images = torch.randn(size, 4)
        torch.testing.assert_close(model({"images": images}), model.backbone.layer(images).relu())
        torch.testing.assert_close(model(images), model.backbone.layer(images).relu())
    assert graphs == [6]
    model.train()({"images": torch.randn(8, 4)})
    assert graphs == [6, 8]


def test_after_an_error_everything_is_compiled_again(graphs):
    model = Whole().eval()
    compile_module(model.backbone)
    CompiledForOneSize(6).add_to(model)
    with pytest.raises(RuntimeError, match="shapes"):
        model(torch.randn(2, 7))
    model(torch.randn(6, 4))
    assert graphs == [6]


def test_why_it_does_not_work_here(monkeypatch):
    def backend(graph, inputs):
        raise OSError("no working\n compiler found")

    compiler_problem.cache_clear()
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    assert compiler_problem("cpu") is None
    compiler_problem.cache_clear()
    monkeypatch.setattr(compiling, "BACKEND", backend)
    assert "no working compiler found" in compiler_problem("cpu")
    compiler_problem.cache_clear()
