"""MODEL.COMPILE: what is compiled, errors, and runs with compiled parts."""

import copy
import os
import shutil

import pytest
import torch

from fastreid.config import ConfigError
from fastreid.engine import build_for_evaluation, predictor
from fastreid.engine import compiling as engine_compiling
from fastreid.engine.compiling import compile_model
from fastreid.utils import compiling
from tests.engine.test_accumulation import Classifier
from tests.engine.toys import FEATURES, ToyModel, ToyTrainer, toy_cfg, train
from tests.engine.waits import CASES, MLP, SOLVERS, assets, place, sd_folder, stage2, text_assets
from tests.modeling.toys import batch as toy_batch

__all__ = ["assets", "place", "sd_folder", "text_assets"]


@pytest.fixture
def eager(monkeypatch):
    """Graphs are traced and run as they are: no compiler."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    compiling.compiler_problem.cache_clear()
    torch.compiler.reset()
    yield
    compiling.compiler_problem.cache_clear()
    torch.compiler.reset()


def with_compile(cfg):
    cfg = cfg.clone()
    cfg.merge_from_list(["MODEL.COMPILE", True])
    return cfg


PARTS = {
    "Baseline": {"backbone"},
    "MGN": {"backbone", "b1", "b2", "b3"},
    "SDReIDStage1": {"person.backbone"},
    "SDReIDStage2, UNet": {"person.backbone", "denoiser"},
    "DCAC": {"backbone", "feedback.denoiser"},
    "PISL": {"backbone"},
    "ClusterContrast": {"backbone"},
    "DiffusionReID": {"denoiser"},
}


SLOW = ("DiffusionReID",)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in PARTS])
def test_what_each_model_compiles(name, request, eager):
    cfg, model, _ = CASES[name](request)
    before = list(model.state_dict())
    compile_model(cfg, model, "cpu")
    assert not [path for path, part in model.named_modules() if part._compiled_call_impl is not None]
    compile_model(with_compile(cfg), model, "cpu")
    assert {path for path, part in model.named_modules() if part._compiled_call_impl is not None} == PARTS[name]
    assert list(model.state_dict()) == before


def in_one_graph(model, batch):
    """Evaluate a model that is compiled as a whole; a graph break is an error."""
    model.eval()
    with torch.inference_mode():
        expected = model(batch)  # draws the noise, which is kept: its seeds are no part of a graph
        whole = torch.compile(lambda batch: model(batch), backend="eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(whole(batch), expected)


def test_the_person_encoder_has_no_graph_break(request):
    in_one_graph(CASES["SDReIDStage1"](request)[1], toy_batch(2))


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS[:3])
def test_an_evaluation_of_stage_2_has_no_graph_break(solver, request):
    in_one_graph(stage2(request, ("MODEL.SDMODEL.SCHEDULER_CONFIG.NAME", solver))[1], toy_batch(2))


def test_a_module_without_the_interface(eager):
    model = torch.nn.ModuleDict({"backbone": torch.nn.Linear(2, 2), "heads": torch.nn.Linear(2, 2)})
    compile_model(toy_cfg("unused", MODEL__COMPILE=True), model, "cpu")
    assert model["backbone"]._compiled_call_impl is not None and model["heads"]._compiled_call_impl is None


def test_divided_weights_are_refused(eager):
    cfg = toy_cfg("unused", MODEL__COMPILE=True, SOLVER__FSDP__ENABLED=True)
    with pytest.raises(ConfigError, match=r"MODEL\.COMPILE .* set SOLVER\.FSDP\.ENABLED to False"):
        compile_model(cfg, Classifier(), "cpu")


def test_an_error_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(engine_compiling, "compiler_problem", lambda device: "InvalidCxxCompiler: none")
    with pytest.raises(ConfigError, match=r"does not work on cpu here \(InvalidCxxCompiler: none\).* C\+\+ compiler"):
        compile_model(toy_cfg("unused", MODEL__COMPILE=True), Classifier(), "cpu")


class Compiled(ToyModel):
    """The toy, with a part that is compiled."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.backbone = torch.nn.Sequential(torch.nn.Linear(FEATURES, FEATURES), torch.nn.Tanh())

    def forward(self, batch):
        return super().forward(batch | {"images": self.backbone(batch["images"])})


class Trainer(ToyTrainer):
    @classmethod
    def build_model(cls, cfg):
        torch.manual_seed(0)
        return Compiled(cfg.MODEL.HEADS.NUM_CLASSES)


# Without a compiler a graph is traced and run as it is.
NEEDS = shutil.which(os.environ.get("CXX", "g++"))
INDUCTOR = pytest.param(
    "inductor",
    marks=[pytest.mark.slow, pytest.mark.skipif(NEEDS is None, reason="torch.compile needs a C++ compiler, as g++")],
)


@pytest.fixture(params=["eager", INDUCTOR])
def backend(request, monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", request.param)
    compiling.compiler_problem.cache_clear()
    torch.compiler.reset()
    yield request.param
    compiling.compiler_problem.cache_clear()
    torch.compiler.reset()


def weights(trainer):
    return trainer.bare_model.state_dict()


def test_a_compiled_run_is_resumed_exactly_and_near_one_that_is_not_compiled(tmp_path, backend):
    plain, whole = (
        train(toy_cfg(tmp_path / name, MODEL__COMPILE=is_compiled), trainer_class=Trainer)
        for name, is_compiled in (("plain", False), ("whole", True))
    )
    assert list(weights(whole)) == list(weights(plain))
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(whole)[name], value, rtol=1e-4, atol=1e-5)
    train(toy_cfg(tmp_path / "parts", MODEL__COMPILE=True, SOLVER__MAX_EPOCH=2), trainer_class=Trainer)
    torch.compiler.reset()  # as in a new process
    parts = train(toy_cfg(tmp_path / "parts", MODEL__COMPILE=True), trainer_class=Trainer, resume=True)
    assert all(torch.equal(weights(parts)[name], value) for name, value in weights(whole).items())


def test_descriptors_of_a_compiled_model(tmp_path, request, backend):
    """The MLP, whose code is compiled in seconds: a full batch, and one of another size."""
    keys = (*MLP, "TEST.IMS_PER_BATCH", 4, "TEST.SDMODEL.MICRO_BATCH", 3)
    cfg, model, _ = stage2(request, keys)
    compiled = copy.deepcopy(model)
    compile_model(with_compile(cfg), compiled, "cpu")
    with torch.inference_mode():
        for size in (4, 3):
            batch = toy_batch(size)
            torch.testing.assert_close(compiled.eval()(batch), model.eval()(batch), rtol=1e-4, atol=1e-4)


def test_evaluation_and_predictor_are_compiled(tmp_path, eager, monkeypatch):
    calls = []
    monkeypatch.setattr(
        predictor, "compile_model", lambda cfg, model, device: calls.append((cfg.MODEL.COMPILE, device))
    )
    trainer = train(toy_cfg(tmp_path, SOLVER__MAX_EPOCH=1), trainer_class=Trainer)
    file = trainer.checkpointer.save_dir / "model_final.pth"
    build_for_evaluation(toy_cfg(tmp_path, MODEL__COMPILE=True, MODEL__WEIGHTS=str(file)), Trainer)
    assert calls == [(True, "cpu")]
