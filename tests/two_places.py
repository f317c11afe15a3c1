"""What the modes of quickstart.sh that compare runs in two rendered places have in common."""

import json

from tests.miniature import ROOT, Scratch

DATA = "datasets/quickstart_dg"


def trained(calls: list[str]) -> list[str]:
    """Return the configs that train_net was called with."""
    words = [call.split() for call in calls if call.startswith("tools/train_net.py")]
    return [call[call.index("--config-file") + 1] for call in words]


def runs_of(mode: str) -> list[str]:
    """Return the runs that the script of a mode compares."""
    script = (ROOT / f"go/quickstart_{mode}.sh").read_text()
    (line,) = [line for line in script.splitlines() if line.startswith("compare ")]
    return line.split()[1:]


def check_report(scratch: Scratch, done, calls: list[str], logs: str, runs: list[str], places: dict[str, str]) -> None:
    """Both places were rendered, the runs trained in their order, and all figures are in one report.

    `places` has the domain of each data set.
    """
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    folder = scratch.folder / logs
    assert trained(calls) == [f"configs/quickstart/{run}.yml" for run in runs]
    figures = json.loads((folder / "report.json").read_text())
    assert list(figures) == runs and all(set(own) == set(places) for own in figures.values())
    assert all(name in (folder / "report.html").read_text(encoding="utf-8") for name in (*runs, *places))
    lines = done.stdout[done.stdout.index("==> writing the report") :].splitlines()
    assert [line.split()[0] for line in lines[4 : 5 + len(runs)]] == [*runs, "chance"]
    assert lines[-1].endswith(f"open {logs}/report.html")
    domains = [json.loads((scratch.folder / DATA / name / "render.json").read_text())["request"] for name in places]
    assert [d["domain"] for d in domains] == list(places.values())
    assert domains[0]["seed"] != domains[1]["seed"]  # other people


def check_second_run(scratch: Scratch, mode: str, logs: str, first: str) -> None:
    """A finished mode trains nothing; without the figures of its first run, it trains that again."""
    scratch.calls()
    assert scratch.script("quickstart.sh", mode, on_tool="note").returncode == 0
    assert trained(scratch.calls()) == []
    (scratch.folder / logs / first / "results.json").unlink()
    assert scratch.script("quickstart.sh", mode, on_tool="note").returncode == 0
    assert trained(scratch.calls()) == [f"configs/quickstart/{first}.yml"]
