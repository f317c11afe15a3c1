"""The command line, and what a run does before anything else."""

import logging
import os
import random

import pytest
import torch

from fastreid.config import ConfigError, get_cfg
from fastreid.engine import default_setup
from fastreid.engine.setup import tool_argument_parser


@pytest.fixture(autouse=True)
def put_back():
    logger = logging.getLogger("fastreid")
    handlers, level = list(logger.handlers), logger.level
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    deterministic, cublas = torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.use_deterministic_algorithms(deterministic)
    if cublas is None:
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    for handler in set(logger.handlers) - set(handlers):
        handler.close()
    logger.handlers[:] = handlers
    logger.setLevel(level)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn


def parse(*words):
    return tool_argument_parser().parse_args(words)


def test_options_and_key_value_pairs():
    args = parse("--config-file", "a.yml", "--eval-only", "--num-gpus", "2", "MODEL.DEVICE", "cpu")
    assert (args.config_file, args.eval_only, args.resume, args.dry_run) == ("a.yml", True, False, False)
    assert (args.num_gpus, args.num_machines, args.machine_rank, args.dist_url) == (2, 1, 0, "auto")
    assert args.opts == ["MODEL.DEVICE", "cpu"]


def cfg_in(folder, **model):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder / "run")
    for key, value in model.items():
        cfg.MODEL[key] = value
    return cfg


def test_config_is_written_and_reads_back(tmp_path, capsys):
    cfg = cfg_in(tmp_path)
    cfg.SOLVER.BASE_LR = 1.6e-6
    default_setup(cfg, parse())
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "run" / "config.yaml"))
    assert again.MODEL.DEVICE == "auto"  # another machine may have another device
    again.MODEL.DEVICE = torch.device(cfg.MODEL.DEVICE).type
    assert again == cfg
    text = (tmp_path / "run" / "log.txt").read_text()
    assert torch.__version__ in text and "seed 1111" in text
    assert "environment" in capsys.readouterr().out


def test_same_seed_same_numbers(tmp_path):
    draws = []
    for seed in (5, 5, 6):
        default_setup(cfg_in(tmp_path, SEED=seed), parse())
        draws.append((random.random(), torch.rand(()).item()))
    assert draws[0] == draws[1] != draws[2]


def test_negative_seed_is_drawn_and_told(tmp_path):
    default_setup(cfg_in(tmp_path, SEED=-1), parse())
    text = (tmp_path / "run" / "log.txt").read_text()
    assert "seed -1" not in text and "setup: seed " in text


def test_unsupported_keys_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"MODEL\.QUEUE_SIZE"):
        default_setup(cfg_in(tmp_path, QUEUE_SIZE=5), parse())


@pytest.mark.parametrize("benchmark", [True, False])
def test_cudnn_is_fast_or_deterministic(tmp_path, benchmark):
    cfg = cfg_in(tmp_path)
    cfg.CUDNN_BENCHMARK = benchmark
    default_setup(cfg, parse())
    assert torch.backends.cudnn.benchmark is benchmark
    assert torch.backends.cudnn.deterministic is not benchmark


def test_float32_is_computed_as_the_key_says(tmp_path):
    cfg = cfg_in(tmp_path)
    for precision in ("tf32", "ieee"):
        cfg.MODEL.FLOAT32 = precision
        default_setup(cfg, parse())
        assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is (precision == "tf32")


def test_deterministic_refuses_what_has_no_deterministic_form(tmp_path):
    default_setup(cfg_in(tmp_path), parse())
    assert not torch.are_deterministic_algorithms_enabled()
    cfg = cfg_in(tmp_path)
    cfg.DETERMINISTIC = True
    default_setup(cfg, parse())
    assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        torch.nn.functional.max_unpool1d(torch.ones(1, 1, 2), torch.tensor([[[0, 2]]]), 2)
    cfg.CUDNN_BENCHMARK = True
    with pytest.raises(ConfigError, match="contradict each other"):
        default_setup(cfg, parse())


def test_an_unknown_metric_is_found_before_training(tmp_path):
    cfg = cfg_in(tmp_path)
    cfg.TEST.METRIC = "cosin"
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        default_setup(cfg, parse())
