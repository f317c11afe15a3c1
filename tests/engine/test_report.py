"""A run writes a report on itself; without one, it ends as usual."""

import logging
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fastreid.engine.report import write_report
from fastreid.evaluation.report import make
from tests.engine.toys import ToyTrainer, toy_cfg, train
from tests.miniature import ROOT


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    """Config of a run whose images are files."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(24):
        pixels = rng.integers(0, 255, (32, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"img{number:03d}", format="jpeg")
    return toy_cfg(tmp_path / "my run", TEST__REPORT=True, TEST__EVAL_PERIOD=2)


def page_of(cfg):
    with open(f"{cfg.OUTPUT_DIR}/report.html", encoding="utf-8") as file:
        return file.read()


def test_a_training_ends_with_its_report(cfg, monkeypatch):
    made = []
    render = make.render_page
    monkeypatch.setattr(make, "render_page", lambda runs: made.append(runs) or render(runs))
    trainer = train(cfg)
    assert len(made) == 1  # only after the last evaluation
    page = page_of(cfg)
    assert "<h1>Person re-identification: my run</h1>" in page and "Best queries" in page
    assert f">{trainer.results['Toy']['mAP']:.2f}<" in page
    assert "mAP in percent" in page  # drawn for two evaluations: the last one is recorded before the report
    assert len(page) < 2_000_000


def test_a_finished_run_that_is_resumed_writes_it_again(cfg, tmp_path):
    train(cfg)
    (tmp_path / "my run/report.html").unlink()
    train(cfg, resume=True)
    assert "my run" in page_of(cfg)


def test_an_unreadable_image_does_not_stop_the_run(cfg, tmp_path, caplog):
    for number in range(24):
        (tmp_path / f"img{number:03d}").write_text("no image")
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run/report.html").write_text("of an earlier run")
    with caplog.at_level(logging.WARNING):
        trainer = train(cfg)
    assert trainer.results and not (tmp_path / "my run/report.html").exists()
    assert "no report was written: cannot read image img" in caplog.text
    assert "Make it with: python tools/make_report.py" in caplog.text


def test_any_error_in_it_is_a_warning(cfg, monkeypatch, caplog):
    monkeypatch.setattr(make, "render_page", lambda runs: 1 / 0)
    with caplog.at_level(logging.WARNING):
        assert train(cfg).results
    assert "no report was written: division by zero" in caplog.text


def test_the_key_turns_it_off(tmp_path):
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.engine.toys import toy_cfg, train\n"
        f"train(toy_cfg({str(tmp_path / 'run')!r}, SOLVER__MAX_EPOCH=1))\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"matplotlib", "jinja2"} & set(done.stdout.split())
    assert (tmp_path / "run/results.json").exists() and not (tmp_path / "run/report.html").exists()


def test_a_run_without_tests_writes_none(cfg, tmp_path, caplog):
    given = cfg.clone()
    given.defrost()
    given.DATASETS.TESTS = ()
    train(given)
    assert not (tmp_path / "my run/report.html").exists() and "no report" not in caplog.text


class OwnEvaluator(ToyTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_dir=None):
        loader, evaluator = super().build_evaluator(cfg, dataset_name, output_dir)
        return loader, evaluator

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        dataset = cls.build_test_datasets(cfg)[0]
        return cls.build_feature_loader(cfg, [*dataset.query, *dataset.gallery]), len(dataset.query)


def test_a_user_defined_evaluator_has_no_report(cfg, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        train(cfg, trainer_class=OwnEvaluator)
    assert not (tmp_path / "my run/report.html").exists()
    assert "no report.html will be written" in caplog.text and "no report was written" not in caplog.text


def test_only_the_main_process_writes_it(cfg, tmp_path, monkeypatch):
    train(cfg)
    (tmp_path / "my run/report.html").unlink()
    monkeypatch.setattr("fastreid.utils.comm.is_main_process", lambda: False)
    write_report(cfg)
    assert not (tmp_path / "my run/report.html").exists()
