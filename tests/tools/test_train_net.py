"""The command: options to actions, and sentences instead of tracebacks for a user's mistakes."""

import importlib.util
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fastreid.data.images import ImageReadError
from fastreid.utils.lock import InUseError
from tests.engine.toys import ToyTrainer, toy_cfg, toy_images

TOOL = Path(__file__).parents[2] / "tools" / "train_net.py"


@pytest.fixture
def tool(monkeypatch):
    """The module, with the toy in place of the real trainer and benchmarks."""
    spec = importlib.util.spec_from_file_location("train_net", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DefaultTrainer", ToyTrainer)
    logger = logging.getLogger("fastreid")
    handlers, level = list(logger.handlers), logger.level
    yield module
    for handler in set(logger.handlers) - set(handlers):
        handler.close()
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture
def run(tool, monkeypatch, tmp_path):
    """Runs the tool in tmp_path, as from a shell."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        keys = ["MODEL.DEVICE", "cpu", "SOLVER.MAX_EPOCH", "2", "DATASETS.TESTS", "('Toy',)"]
        keys += [] if "TEST.REPORT" in words else ["TEST.REPORT", "False"]  # the images are no files
        monkeypatch.setattr(sys, "argv", ["train_net.py", *words, *keys])
        return tool.run()

    return call


def test_train_then_evaluate_gives_the_same_figures(run, tmp_path):
    run("OUTPUT_DIR", "train")
    run("--eval-only", "OUTPUT_DIR", "eval", "MODEL.WEIGHTS", "train/model_final.pth")
    trained = json.loads((tmp_path / "train" / "results.json").read_text())
    assert json.loads((tmp_path / "eval" / "results.json").read_text()) == trained
    manifest = json.loads((tmp_path / "eval" / "manifest_evaluation.json").read_text())
    assert manifest["weights"]["MODEL.WEIGHTS"]["path"] == "train/model_final.pth"
    assert manifest["sessions"][0]["status"] == "finished" and not (tmp_path / "eval" / "manifest.json").exists()


def test_an_evaluation_writes_a_report_too(run, tmp_path):
    for image in toy_images():
        Image.new("RGB", (16, 32)).save(tmp_path / image.path, format="jpeg")
    run("OUTPUT_DIR", "train")
    assert not (tmp_path / "train" / "report.html").exists()
    run("--eval-only", "OUTPUT_DIR", "eval", "MODEL.WEIGHTS", "train/model_final.pth", "TEST.REPORT", "True")
    page = (tmp_path / "eval" / "report.html").read_text(encoding="utf-8")
    assert "<title>Person re-identification: eval</title>" in page and "No training was recorded" in page


def test_evaluating_into_the_folder_of_a_training_leaves_its_manifest_alone(run, tmp_path):
    run("OUTPUT_DIR", "train")
    before = (tmp_path / "train" / "manifest.json").read_bytes()
    run("--eval-only", "OUTPUT_DIR", "train", "MODEL.WEIGHTS", "train/model_final.pth")
    assert (tmp_path / "train" / "manifest.json").read_bytes() == before
    assert (tmp_path / "train" / "manifest_evaluation.json").exists()


def test_config_file_and_resume(run, tmp_path):
    (tmp_path / "toy.yml").write_text("OUTPUT_DIR: here\nSOLVER: {CHECKPOINT_PERIOD: 1}\n")
    run("--config-file", "toy.yml")
    before = (tmp_path / "here" / "model_final.pth").stat().st_mtime_ns
    run("--config-file", "toy.yml", "--resume")
    assert (tmp_path / "here" / "model_final.pth").stat().st_mtime_ns == before


def test_dry_run_prints_summaries_and_trains_nothing(run, tmp_path, capsys):
    run("--dry-run", "OUTPUT_DIR", "dry")
    out = capsys.readouterr().out
    assert "embed" in out and "total" in out  # model
    assert "Toy" in out and "train" in out  # data
    assert "2 epochs of 3 iterations, 6 in all" in out
    assert "at the same time" in out  # memory
    assert sorted(p.name for p in (tmp_path / "dry").iterdir()) == ["config.yaml", "log.txt"]


def test_a_dry_run_opens_the_first_image_of_each_split(run, monkeypatch):
    def fail_at_the_fifth(_cfg, images):
        if images[0].path == "img004":
            raise ImageReadError.of("img004", "there is no such file")
        return []

    monkeypatch.setattr(ToyTrainer, "build_feature_loader", staticmethod(fail_at_the_fifth))
    with pytest.raises(
        SystemExit, match="^train_net: error: Toy, first image of gallery: cannot read image img004: there"
    ):
        run("--dry-run", "OUTPUT_DIR", "dry")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--eval-only"], "--eval-only needs a checkpoint"),
        (["--eval-only", "MODEL.WEIGHTS", "gone.pth"], r"no weights file gone\.pth"),
        (["--config-file", "gone.yml"], r"no config file .*gone\.yml"),
        (["SOLVER.BASE_LRR", "1"], r"did you mean SOLVER\.BASE_LR"),
        (["SOLVER.OPT", "Adamm"], "did you mean 'Adam'"),
        (["SOLVER.SCHED", "Cosine"], "did you mean 'EpochWarmupCosineLR' or 'CosineAnnealingLR'"),
        (["--num-gpus", "0"], "must be at least 1"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(run, words, message):
    with pytest.raises(SystemExit, match=f"train_net: error: .*{message}"):
        run(*words)


def expected(value, tests="Toy", figure="mAP"):
    return ["TEST.EXPECTED_RESULTS", f"[['{tests}', '{figure}', {value}, 0.01]]"]


def test_verify_compares_the_last_results(run, tmp_path, capsys):
    run("OUTPUT_DIR", "train", "TEST.EVAL_PERIOD", "1")
    figures = json.loads((tmp_path / "train" / "results.json").read_text())["Toy"]
    right, wrong = expected(figures["mAP"]), expected(figures["mAP"] - 1)
    capsys.readouterr()
    run("--verify", "OUTPUT_DIR", "again", *right)
    assert "│ ok" in capsys.readouterr().out
    evaluation = ["--eval-only", "--verify", "OUTPUT_DIR", "eval", "MODEL.WEIGHTS", "train/model_final.pth"]
    run(*evaluation, *right)
    for words in (evaluation, ["--verify", "OUTPUT_DIR", "off"]):
        with pytest.raises(SystemExit, match="^train_net: error: 1 of the 1 figures in TEST.EXPECTED_RESULTS are miss"):
            run(*words, *wrong)
        assert "│ off" in capsys.readouterr().out
    for folder in ("eval", "off"):  # nothing is lost
        assert json.loads((tmp_path / folder / "results.json").read_text())["Toy"] == figures
        assert not (tmp_path / folder / ".fastreid.lock").exists()
    assert json.loads((tmp_path / "off" / "manifest.json").read_text())["sessions"][0]["status"] == "finished"
    assert (tmp_path / "off" / "model_final.pth").exists()
    run("--resume", "OUTPUT_DIR", "off", *wrong)  # other expectations do not change the training
    run("--resume", "--verify", "OUTPUT_DIR", "off", *right)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "TEST.EXPECTED_RESULTS is empty, so there is nothing to verify"),
        (expected(50, tests="Toys"), "row 1: unknown protocol 'Toys'; did you mean 'Toy'"),
        (expected(50, figure="Rank1"), "row 1: unknown figure 'Rank1'; did you mean 'Rank-1'"),
        (["TEST.EXPECTED_RESULTS", "[['Toy', 'mAP', 50]]"], r"row 1 must be \[protocol, figure, value, tolerance\]"),
    ],
)
def test_verify_needs_rows_that_the_run_can_have(run, tmp_path, words, message):
    with pytest.raises(SystemExit, match=f"train_net: error: .*{message}"):
        run("--verify", "OUTPUT_DIR", "run", *words)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_verifies_the_rows_alone(run):
    run("--dry-run", "--verify", "OUTPUT_DIR", "dry", *expected(-1))
    with pytest.raises(SystemExit, match="row 1: unknown figure"):
        run("--dry-run", "OUTPUT_DIR", "dry", *expected(1, figure="mapp"))


def held_by_another(folder):
    """A process that writes to the folder, as a run would; ends when it is killed."""
    code = f"from fastreid.utils.lock import acquire\nacquire({str(folder)!r}); print('held', flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    return process


@pytest.mark.parametrize("words", [(), ("--resume",), ("--eval-only", "MODEL.WEIGHTS", "x.pth")])
def test_a_second_run_in_a_folder_reads_who_has_it(run, tmp_path, words):
    with held_by_another(tmp_path / "run") as other:
        with pytest.raises(SystemExit) as stopped:
            run(*words, "OUTPUT_DIR", "run")
        other.kill()
    assert f"train_net: error: OUTPUT_DIR: run is in use by process {other.pid} on " in str(stopped.value)
    assert os.listdir(tmp_path / "run") == [".fastreid.lock"]  # nothing was written
    if not words:
        run("OUTPUT_DIR", "run")  # a killed process holds nothing
        assert not (tmp_path / "run" / ".fastreid.lock").exists()


def test_a_dry_run_leaves_a_folder_that_is_in_use_alone(run, tmp_path, capsys):
    with held_by_another(tmp_path / "run") as other:
        run("--dry-run", "OUTPUT_DIR", "run")
        other.kill()
    out = capsys.readouterr().out
    assert f"nothing is written: OUTPUT_DIR: run is in use by process {other.pid}" in out
    assert "2 epochs of 3 iterations" in out and os.listdir(tmp_path / "run") == [".fastreid.lock"]


def test_trainers_hold_the_folder_without_the_tool(tool, tmp_path):
    cfg = toy_cfg(tmp_path / "run")
    trainer = ToyTrainer(cfg)
    with held_by_another(tmp_path / "run") as other:
        with pytest.raises(InUseError, match=f"in use by process {other.pid}"):
            trainer.train()
        with pytest.raises(InUseError, match=f"in use by process {other.pid}"):
            ToyTrainer.test(cfg, trainer.model)
        other.kill()


def test_translated_keys_are_not_printed_before_the_log_is_set_up(tmp_path):
    """`default_setup` logs them once for all processes."""
    script = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('train_net', sys.argv.pop(1)); "
        "tool = importlib.util.module_from_spec(spec); spec.loader.exec_module(tool); "
        "cfg = tool.setup_cfg(tool.argument_parser().parse_args()); print(cfg.SOLVER.MAX_EPOCH)"
    )
    command = [sys.executable, "-c", script, str(TOOL), "SOLVER.MAX_ITER", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (done.stdout.strip(), done.stderr) == ("7", "")
