"""The plain loop: the same bits as the trainer's, and plain words for what it leaves out."""

import json

import pytest
import torch

from tests.miniature import FEW_STEPS, ROOT, rendered, run_tool
from tests.modeling import toys
from tests.recipes import save_stage1

SMALL = ["INPUT.SIZE_TRAIN", "[64, 32]", "INPUT.SIZE_TEST", "[64, 32]", "MODEL.BACKBONE.PRETRAIN", "False"]
SBS = [
    *(
        "MODEL.BACKBONE.DEPTH",
        "18x",
        "SOLVER.FREEZE_ITERS",
        "3",
        "SOLVER.WARMUP_ITERS",
        "2",
        "SOLVER.DELAY_EPOCHS",
        "1",
    ),
    *("DATALOADER.NUM_INSTANCE", "4", "TEST.EVAL_PERIOD", "1"),
]
BF16 = ["SOLVER.AMP.DTYPE", "bf16", "SOLVER.ITERS_PER_EPOCH", "2", "INPUT.REA.ENABLED", "True"]
RUNS = {
    "sbs": ("configs/Market1501/sbs_R50.yml", SBS),
    "stage1": ("configs/quickstart/stage1.yml", BF16),
    "stage2": ("configs/quickstart/stage2.yml", []),
    "stage2_unet": ("configs/quickstart/stage2_unet.yml", ["TEST.SDMODEL.NUM_INFERENCE_STEPS", "2"]),
}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return rendered(tmp_path_factory.getbasetemp(), "Market1501", "CARGO")


@pytest.fixture(scope="module")
def stage2_keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage2")
    toys.write_assets(folder)
    unet = ["MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH", str(folder / "unet")]
    unet += [
        "MODEL.SDMODEL.CON_LEARNER_CONFIG.OUT_CHANNELS",
        "[]",
        "MODEL.SDMODEL.SCHEDULER_CONFIG.PRETRAINED_PATH",
        str(folder / "scheduler"),
    ]
    return [*unet, *save_stage1(ROOT / RUNS["stage2"][0], folder / "stage1.pth", *SMALL)]


@pytest.mark.parametrize("name", RUNS)
def test_same_config_and_seed_end_with_the_same_bits(name, data_root, stage2_keys, tmp_path):
    config, keys = RUNS[name]
    keys = [*SMALL, *FEW_STEPS, *keys, *(stage2_keys if name.startswith("stage2") else [])]
    for tool in ("train_net", "plain_train_net"):
        folders = ["DATASETS.ROOT", str(data_root), "OUTPUT_DIR", str(tmp_path / tool)]
        run_tool(f"tools/{tool}.py", "--config-file", str(ROOT / config), *keys, *folders, cwd=tmp_path)
    files = [tmp_path / tool / "model_final.pth" for tool in ("train_net", "plain_train_net")]
    trained, plain = (torch.load(file, weights_only=True)["model"] for file in files)
    assert trained.keys() == plain.keys() and len(trained) > 50
    assert [name for name in trained if not torch.equal(trained[name], plain[name])] == []
    figures = [json.loads((tmp_path / tool / "results.json").read_text()) for tool in ("train_net", "plain_train_net")]
    assert figures[0] == figures[1] and figures[0]
    # And the checkpoint can be evaluated.
    words = ["--eval-only", *keys, *folders, "MODEL.WEIGHTS", str(files[1])]
    (files[1].parent / "results.json").unlink()
    run_tool("tools/plain_train_net.py", "--config-file", str(ROOT / config), *words, cwd=tmp_path)
    assert json.loads((files[1].parent / "results.json").read_text()) == figures[0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["SOLVER.ACCUMULATION_STEPS", "2"], "leaves some things to train_net, so .*ACCUMULATION_STEPS=2"),
        (["SOLVER.FSDP.ENABLED", "True"], "FSDP.ENABLED=True"),
        (["TEST.PRECISE_BN.ENABLED", "True"], "PRECISE_BN.ENABLED=True"),
        (["MODEL.SEED", "-1"], "draws no seed"),
        (["KD.EMA.ENABLED", "True"], "not supported: KD.EMA.ENABLED"),
    ],
)
def test_what_it_leaves_out_is_told(keys, message, tmp_path):
    with pytest.raises(SystemExit, match=f"^plain_train_net: error: .*{message}"):
        run_tool("tools/plain_train_net.py", "OUTPUT_DIR", str(tmp_path), *keys, cwd=tmp_path)
