"""Names of fast-reid that its users import, each used as they use it."""

import logging

import pytest
import torch
from torch import nn

from fastreid.config import CfgNode, ConfigError, get_cfg
from fastreid.config import cfg as shared
from fastreid.layers import DropPath, to_2tuple, trunc_normal_
from fastreid.layers.weight_init import weights_init_classifier, weights_init_kaiming
from fastreid.modeling.backbones import build as backbones
from fastreid.modeling.heads import build as heads
from fastreid.modeling.meta_arch import build as meta_arch
from fastreid.utils import comm
from fastreid.utils.checkpoint import (
    Checkpointer,
    PathManager,
    PeriodicCheckpointer,
    WeightsError,
    get_missing_parameters_message,
    get_unexpected_parameters_message,
)
from fastreid.utils.errors import ArgumentError
from fastreid.utils.events import EventStorage, EventWriter, TensorboardXWriter, get_event_storage
from fastreid.utils.logger import setup_logger


def test_paths_are_local(tmp_path):
    folder = str(tmp_path / "a/b")
    PathManager.mkdirs(folder)
    with PathManager.open(f"{folder}/text", "w") as file:
        file.write("é")
    with PathManager.open(f"{folder}/text", "rb") as file:
        assert file.read() == "é".encode()
    assert PathManager.exists(folder) and PathManager.isdir(folder) and not PathManager.isfile(folder)
    assert PathManager.isfile(f"{folder}/text") and PathManager.ls(folder) == ["text"]
    assert PathManager.get_local_path(f"{folder}/text") == f"{folder}/text"
    assert PathManager.copy(f"{folder}/text", f"{folder}/copy")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        PathManager.copy(f"{folder}/text", f"{folder}/copy")
    assert PathManager.copy(f"{folder}/text", f"{folder}/copy", overwrite=True)
    PathManager.rm(f"{folder}/text")
    assert PathManager.ls(folder) == ["copy"]
    for call in (
        lambda: PathManager.open("https://a.org/model.pth", "rb"),
        lambda: PathManager.get_local_path(folder, force=True),
        lambda: PathManager.register_handler(object()),
    ):
        with pytest.raises(ArgumentError, match="nothing is downloaded|only local paths"):
            call()


def test_a_logger_has_a_name_a_file_and_no_colours(tmp_path, capsys):
    path = tmp_path / "logs/demo.log"
    logger = setup_logger(output=str(path), distributed_rank=0, color=False, name="tracker.demo", abbrev_name="t")
    try:
        logging.getLogger("tracker.demo.reid").warning("careful")
        logging.getLogger("tracker").warning("not here")
        assert "WARNING: careful" in capsys.readouterr().out
        assert "WARNING t.reid: careful" in path.read_text() and "not here" not in path.read_text()
        setup_logger(str(path), 1, name="tracker.demo").info("of another process")
        assert "INFO tracker.demo: of another" in (tmp_path / "logs/demo.log.rank1").read_text()
        assert "of another" not in path.read_text() + capsys.readouterr().out
    finally:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()


def test_registries_are_in_the_modules_build(cfg):
    assert meta_arch.META_ARCH_REGISTRY.get("Baseline") and heads.REID_HEADS_REGISTRY.get("EmbeddingHead")
    assert backbones.BACKBONE_REGISTRY.get("build_resnet_backbone")
    assert isinstance(meta_arch.build_model(cfg).heads, type(heads.build_heads(cfg)))
    assert isinstance(backbones.build_backbone(cfg), nn.Module)


def test_layers_are_initialised():
    block = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Flatten(), nn.Linear(64, 32), nn.LayerNorm(8))
    for parameter in block.parameters():
        nn.init.constant_(parameter, 7.0)
    block.apply(weights_init_kaiming)
    conv, norm, _, linear, _ = block
    assert conv.weight.std().item() == pytest.approx((2 / 27) ** 0.5, rel=0.1)  # fan in
    assert linear.weight.std().item() == pytest.approx((2 / 32) ** 0.5, rel=0.1)  # fan out
    assert norm.weight.eq(1).all() and not any(layer.bias.any() for layer in (conv, norm, linear))
    linear.apply(weights_init_classifier)
    assert linear.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert trunc_normal_(torch.empty(1000), std=0.02).abs().max() < 2 and to_2tuple(16) == (16, 16)
    assert torch.equal(DropPath(0.5).eval()(torch.ones(4)), torch.ones(4))


def test_parameters_are_named_in_messages():
    assert get_missing_parameters_message(["b", "a"]).endswith("lacks parameters of the model: a, b")
    assert get_unexpected_parameters_message({"c": 1}).endswith("that are not of the model: c")


def test_a_checkpointer_restores_the_optimiser_or_not(tmp_path):
    def make():
        torch.manual_seed(0)
        model = nn.Linear(2, 2)
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    model, optimizer = make()
    checkpointer = Checkpointer(model, tmp_path, optimizer=optimizer)
    assert not checkpointer.has_checkpoint() and checkpointer.get_checkpoint_file() == ""
    assert checkpointer.resume_or_load("", resume=True) == {}
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = checkpointer.save("model", epoch=4)
    for asked, momentum in ((None, True), (["optimizer"], True), ([], False)):
        other, optimizer = make()
        Checkpointer(other, tmp_path, optimizer=optimizer).load(path, checkpointables=asked)
        assert torch.equal(other.weight, model.weight) and bool(optimizer.state) is momentum
    other, optimizer = make()
    loader = Checkpointer(other, tmp_path, optimizer=optimizer)
    assert loader.resume_or_load(str(path), resume=False) == {} and not optimizer.state
    assert loader.resume_or_load("nowhere.pth", resume=True) == {"epoch": 4} and optimizer.state
    for parts in ({"scaler": optimizer}, {}):
        with pytest.raises(WeightsError, match="has no scaler"):
            Checkpointer(other, tmp_path, **parts).load(path, checkpointables=["scaler"])
    Checkpointer(other, tmp_path, save_to_disk=False).save("unwritten")
    assert not (tmp_path / "unwritten.pth").exists()


def test_checkpoints_of_a_run_without_a_length(tmp_path):
    periodic = PeriodicCheckpointer(Checkpointer(nn.Linear(1, 1), tmp_path), 2)
    for epoch in range(4):
        periodic.step(epoch)
    periodic.save("model_by_hand", epoch=9)
    assert {path.name for path in tmp_path.glob("*.pth")} == {"model_0001.pth", "model_0003.pth", "model_by_hand.pth"}


def test_a_storage_has_histories_scopes_images_and_histograms(tmp_path):
    with pytest.raises(RuntimeError, match="there is no EventStorage"):
        get_event_storage()
    writer = TensorboardXWriter(str(tmp_path), window_size=2)
    with EventStorage(5) as storage:
        assert storage.iteration == 5
        for value in (1.0, 2.0, 9.0):
            with storage.name_scope("head"):
                storage.put_scalar("loss", value)
            storage.put_scalars(lr=value, smoothing_hint=False)
            storage.step()
        history = storage.history("head/loss")
        assert history.latest() == 9 and history.median(2) == 5.5 and history.avg(3) == 4 == history.global_avg()
        assert history.values() == [(1.0, 5), (2.0, 6), (9.0, 7)] and set(storage.histories()) == {"head/loss", "lr"}
        assert storage.latest() == {"head/loss": (9.0, 7), "lr": (9.0, 7)}
        assert storage.latest_with_smoothing_hint(2) == {"head/loss": (5.5, 7), "lr": (9.0, 7)}
        assert storage.smoothing_hints() == {"head/loss": True, "lr": False}
        with pytest.raises(KeyError, match="no scalar 'loss'"):
            storage.history("loss")
        storage.put_image("crop", torch.zeros(3, 4, 4, dtype=torch.uint8))
        storage.put_histogram("weights", torch.randn(10), bins=5)
        writer.write()
        assert storage.vis_data == storage.histogram_data == []
    writer.close()
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert all(name in written for name in (b"head/loss", b"crop", b"weights"))


def test_a_config_is_shared_by_a_process_and_read_without_checks(tmp_path):
    from fastreid.config import cfg as again

    assert shared is again and isinstance(shared, CfgNode) and shared == get_cfg()
    (tmp_path / "base.yml").write_text("A: {B: 1, C: 2}\nD: 3\n")
    (tmp_path / "own.yml").write_text("_BASE_: base.yml\nA: {B: 5}\nE: text\n")
    tree = CfgNode.load_yaml_with_base(str(tmp_path / "own.yml"))
    assert tree == {"A": {"B": 5, "C": 2}, "D": 3, "E": "text"}
    with pytest.raises(ConfigError, match="allow_unsafe"):
        CfgNode.load_yaml_with_base(str(tmp_path / "own.yml"), allow_unsafe=True)
    with pytest.raises(ImportError):
        from fastreid.config import cgf  # noqa: F401


def test_processes_of_a_machine_are_counted(monkeypatch):
    assert comm.get_local_size() == 1
    monkeypatch.setattr(comm, "get_world_size", lambda: 8)
    assert comm.get_local_size() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert comm.get_local_size() == 4


def test_writers_of_fast_reid_in_a_trainer(cfg):
    from fastreid.engine import DefaultTrainer

    class Kept(EventWriter):
        lines: list = []

        def write(self):
            storage = get_event_storage()
            self.lines.append((storage.iter, sorted(storage.latest())))

    class Trainer(DefaultTrainer):
        def build_writers(self):
            return [*super().build_writers(), Kept()]

    cfg.merge_from_list(["SOLVER.MAX_EPOCH", 1, "DATASETS.TESTS", ()])
    Trainer(cfg).train()
    (line,) = Kept.lines
    assert line[0] == 1 and {"total_loss", "loss_cls", "lr", "time", "data_time"} <= set(line[1])
