"""./quickstart.sh diffperson on a few rendered people: a generator, its pictures, a backbone, and a comparison."""

import json

import pytest

from tests.miniature import ROOT, make_scratch
from tests.recipes import merged

LOGS = "logs/quickstart_diffperson"
# The last one again, with the figures of a model that was trained on the pictures.
STAGES = ["caption reference train generate filter export", "export"]
SETTINGS = ("supervised", "small_scale 50 %", "few_shot 50 %", "unsupervised", "adaptation", "generalization")


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    scratch = make_scratch(tmp_path_factory.mktemp("diffperson") / "copy")
    done = scratch.script("quickstart.sh", "diffperson")
    return scratch, done, scratch.calls()


@pytest.mark.slow
def test_people_are_learnt_written_and_trained_on(quickstart):
    scratch, done, calls = quickstart
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    folder = scratch.folder / LOGS
    stages = [call.removeprefix("tools/diffperson.py ") for call in calls if call.startswith("tools/diffperson.py")]
    assert [words.partition(" --config-file")[0] for words in stages] == STAGES
    rows = [json.loads(line) for line in (folder / "DiffPerson/meta.jsonl").read_text().splitlines()]
    assert len({row["gid"] for row in rows}) == 8
    figures = json.loads((folder / "DiffPerson/figures.json").read_text())
    assert {"same person", "other person", "gap"} <= figures["cosine of a written picture and a real image"].keys()
    alone = figures["re-ID model trained on the written pictures alone (%)"]
    assert alone.keys() == {f"{name} on {place}" for name in ("mAP", "Rank-1") for place in ("Market1501", "MSMT17")}
    table = (folder / "transfer/results.md").read_text()
    assert all(setting in table for setting in SETTINGS)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "random" in page and "written" in page
    assert done.stdout.splitlines()[-1].endswith(f"open {LOGS}/report.html")


@pytest.mark.slow
def test_a_second_run_trains_nothing(quickstart):
    scratch, _, _ = quickstart
    scratch.calls()
    done = scratch.script("quickstart.sh", "diffperson")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (calls := scratch.calls()) and not any(call.startswith("tools/train_net.py") for call in calls)


def test_the_configs_find_what_the_script_makes():
    names = ("diffperson", "diffperson_judge", "diffperson_pretrain")
    factory, judge, pretraining = (merged(ROOT / f"configs/quickstart/{name}.yml") for name in names)
    assert factory.OUTPUT_DIR == LOGS and tuple(pretraining.DATASETS.NAMES) == ("DiffPerson",)
    assert factory.DIFFPERSON.FILTER.MODELS == [f"Market1501={judge.OUTPUT_DIR}/model_final.pth"]
    assert factory.DATASETS.SUBSET == judge.DATASETS.SUBSET and factory.DATASETS.SUBSET.MODE == "few_shot"
    script = (ROOT / "go/quickstart_diffperson.sh").read_text()
    assert f"logs={LOGS}" in script and "tools/train_small_diffusion.py" in script
