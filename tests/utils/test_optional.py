"""A package that is missing or broken is a warning and a run."""

import subprocess
import sys
import textwrap

import pytest

from fastreid.utils import optional
from fastreid.utils.writers import TensorboardWriter

ROOT = __file__.rsplit("/tests/", 1)[0]
MISSING = None
BROKEN = ("raise OSError('libfoo.so: wrong ELF class')", "raise AttributeError('np.bool8')", "import _no_such_c_part")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Put a package that fails to be imported before the real one: (name, its code or None for none)."""
    monkeypatch.setattr(optional, "_logged", set())

    def put(name, code):
        for module in [m for m in sys.modules if m.split(".")[0] == name or m.startswith("torch.utils.tensorboard")]:
            monkeypatch.delitem(sys.modules, module)
        if code is None:
            monkeypatch.setitem(sys.modules, name, None)
            return
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))

    return put


@pytest.mark.parametrize("code", [MISSING, *BROKEN])
def test_without_tensorboard_a_run_goes_on(package, tmp_path, caplog, code):
    package("tensorboard", code)
    writer = TensorboardWriter(tmp_path / "run")
    writer.write({"iteration": 1, "epoch": 0, "total_loss": 0.5})
    writer.close()
    assert "the package tensorboard is" in caplog.text and "no TensorBoard files are written" in caplog.text


@pytest.mark.parametrize("code", [MISSING, *BROKEN])
def test_what_is_wrong_is_said_once(package, caplog, code):
    package("matplotlib", code)
    assert optional.optional("matplotlib.figure", "no plots are drawn") is None
    assert optional.optional("matplotlib.figure", "no plots are drawn") is None
    (record,) = caplog.records
    words = "is not installed" if code is None else "is broken"
    assert record.getMessage().startswith(f"the package matplotlib {words}")


def run(code, folder):
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environment = {"PYTHONPATH": f"{folder}:{ROOT}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("code", BROKEN)
def test_a_unet_loads_though_peft_is_broken(tmp_path, code):
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft/__init__.py").write_text(code)
    done = run(
        f"""
        import logging; logging.basicConfig()
        from fastreid.utils.optional import shield_diffusers
        shield_diffusers()
        from tests.modeling import toys
        from pathlib import Path
        from fastreid.modeling.diffusion import UNetDenoiser
        assets = toys.write_assets(Path({str(tmp_path)!r}) / "assets")
        print(UNetDenoiser.from_pretrained(str(assets / "unet")).context_dim)
        """,
        tmp_path,
    )
    assert done.stdout.strip() == "192", done.stderr[-2000:]


@pytest.mark.slow
def test_evaluation_and_report_go_on_without_matplotlib(tmp_path):
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib/__init__.py").write_text(BROKEN[0])
    done = run(
        f"""
        import logging, runpy, sys; logging.basicConfig()
        import numpy as np
        import fastreid.evaluation.report.page
        rows = np.eye(6, 8, dtype="f4")
        for name, cameras in (("q", [0] * 6), ("g", [1] * 6)):
            np.savez({str(tmp_path)!r} + f"/{{name}}.npz", features=rows, pids=range(6), camids=cameras)
        sys.argv = ["x", "--query", {str(tmp_path / "q.npz")!r}, "--gallery", {str(tmp_path / "g.npz")!r},
                    "--plots", {str(tmp_path / "plots")!r}]
        runpy.run_path({ROOT + "/tools/evaluate_features.py"!r}, run_name="__main__")
        """,
        tmp_path,
    )
    assert done.returncode == 0 and "100.00" in done.stdout, done.stderr[-2000:]
    assert "no plots are drawn" in done.stderr


@pytest.mark.parametrize("is_terminal", [False, True])
def test_packages_show_loading_bars_on_a_terminal_only(is_terminal):
    code = f"""
        import sys
        from diffusers.utils import logging as of_diffusers
        from transformers.utils import logging as of_transformers
        from fastreid.utils.optional import hide_loading_bars
        sys.stderr.isatty = lambda: {is_terminal}
        hide_loading_bars()
        print([module.is_progress_bar_enabled() for module in (of_diffusers, of_transformers)])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == f"{[is_terminal] * 2}\n", done.stderr
