"""A checkpoint alone is enough to build its model; if something is missing or does not fit, the message says what."""

import contextlib
import shutil

import pytest
import torch

from fastreid.config import ConfigError, get_cfg, with_values
from fastreid.modeling.diffusion.assets import AssetError
from fastreid.modeling.model import build_model
from fastreid.modeling.trained import config_text, load_trained
from fastreid.utils.checkpoint import CONFIG_TEXT, WeightsError, read_checkpoint
from fastreid.utils.registry import RegistryError
from tests.miniature import ROOT


@pytest.fixture
def run(people):
    return people / "out"


def rewritten(run, path, **values):
    """A checkpoint of the run, not in its folder, with other values; those that are None are left out."""
    content = read_checkpoint(run / "model_final.pth") | values
    torch.save({name: value for name, value in content.items() if value is not None}, path)
    return path


def test_the_checkpoint_alone_is_enough(run, tmp_path):
    shutil.copy(run / "model_final.pth", tmp_path / "moved.pth")
    model, cfg = load_trained(tmp_path / "moved.pth")
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    state = read_checkpoint(run / "model_final.pth")["model"]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items() if name in state)
    assert cfg.MODEL.WEIGHTS == str(tmp_path / "moved.pth") and cfg.MODEL.DEVICE == "cpu"
    assert cfg.INPUT.SIZE_TEST == [32, 32] and cfg.MODEL.HEADS.NUM_CLASSES == 3


@pytest.mark.parametrize(
    "keys",
    [
        ["MODEL.HEADS.NAME", "ClasHead"],
        ["MODEL.HEADS.NAME", "AttrHead", "MODEL.META_ARCHITECTURE", "AttrBaseline"]
        + ["MODEL.LOSSES.NAME", ("BinaryCrossEntropyLoss",)],
    ],
)
def test_a_model_whose_output_is_of_its_classifier_is_not_evaluated_without_it(tmp_path, keys):
    cfg = get_cfg()
    sizes = ["MODEL.BACKBONE.DEPTH", "18x", "MODEL.BACKBONE.FEAT_DIM", 512, "MODEL.HEADS.NUM_CLASSES", 5]
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *sizes, *keys])
    state = build_model(cfg).state_dict()
    for name, weight, said in (
        ("whole", state["heads.weight"], ""),
        ("without", None, r"it lacks heads\.(weight|\*): .*MODEL.HEADS.NUM_CLASSES"),
        ("other", torch.zeros(7, 512), r"heads.weight: file \[7, 512\], model \[5, 512\]"),
    ):
        path, tensors = (
            tmp_path / f"{name}.pth",
            {key: tensor for key, tensor in state.items() if key != "heads.weight"},
        )
        torch.save({"model": tensors if weight is None else tensors | {"heads.weight": weight}}, path)
        with pytest.raises(WeightsError, match=said) if said else contextlib.nullcontext():
            load_trained(path, config=cfg)


def test_every_checkpoint_of_a_run_carries_the_same_text(run):
    texts = {read_checkpoint(path)[CONFIG_TEXT] for path in run.glob("model_*.pth")}
    assert len(texts) == 1 and len(list(run.glob("model_*.pth"))) > 1
    beside = get_cfg()
    beside.merge_from_file(str(run / "config.yaml"))
    carried = get_cfg()
    carried.merge_from_text(texts.pop(), "it")
    assert carried == with_values(beside, {"OUTPUT_DIR": "logs/", "MODEL.HEADS.NUM_CLASSES": 3})


def test_the_text_has_no_places():
    here, there = (
        with_values(
            get_cfg(), {"OUTPUT_DIR": f"{place}/out", "DATASETS.ROOT": place, "MODEL.WEIGHTS": f"{place}/a.pth"}
        )
        for place in ("here", "there")
    )
    assert config_text(here) == config_text(there) and "here" not in config_text(here)
    assert config_text(here) != config_text(with_values(here, {"MODEL.BACKBONE.DEPTH": "18x"}))


def test_older_checkpoints_are_read_with_the_config_beside_them(run, tmp_path):
    old = rewritten(run, tmp_path / "model_final.pth", config_yaml=None)
    with pytest.raises(
        ConfigError, match=r"model_final.pth carries no config.*no config.yaml beside it.*config=\.\.\."
    ):
        load_trained(old)
    by_hand, _ = load_trained(old, config=run / "config.yaml")
    shutil.copy(run / "config.yaml", tmp_path)
    model, cfg = load_trained(old)
    assert cfg.MODEL.BACKBONE.TIMM_NAME == "test_vit" and cfg.MODEL.HEADS.NUM_CLASSES == 0
    state = by_hand.state_dict() | {"heads.weight": model.state_dict()["heads.weight"]}  # the classifier is not read
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    torch.save(torch.load(old, weights_only=True), old, _use_new_zipfile_serialization=False)
    assert load_trained(old)[1] == cfg


@pytest.mark.parametrize(
    ("name", "said"), [("no.pth", "there is no such checkpoint$"), ("", "it is a folder: name a fi")]
)
def test_no_checkpoint(tmp_path, name, said):
    with pytest.raises(ConfigError, match=said):
        load_trained(tmp_path / name)
    with pytest.raises(ConfigError, match="^A.KEY '.*no such"):
        load_trained(tmp_path / name, key="A.KEY")


def test_a_damaged_checkpoint_is_not_taken_for_an_old_one(run, tmp_path):
    content = bytearray((run / "model_final.pth").read_bytes())
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=r"cut\.pth cannot be read as a checkpoint; it may be truncated"):
        load_trained(tmp_path / "cut.pth")
    content[len(content) // 2] ^= 1
    (tmp_path / "other.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"other\.pth is damaged: it is not what was written.*another checkpoint$"):
        load_trained(tmp_path / "other.pth")


def test_keys_and_names_of_user_code_are_asked_for(run, tmp_path):
    text = read_checkpoint(run / "model_final.pth")[CONFIG_TEXT]
    path = rewritten(run, tmp_path / "a.pth", config_yaml=f"{text}\nMINE: {{SIZE: 3}}")
    with pytest.raises(
        ConfigError, match=r"unknown key MINE in the config in .*a\.pth.*If code of yours adds the key with add_s"
    ):
        load_trained(path)
    mine = text.replace("META_ARCHITECTURE: Baseline", "META_ARCHITECTURE: Mine")
    mine = mine.replace("IMPORTS: []", "IMPORTS: [/place/mine.py]")
    path = rewritten(run, tmp_path / "b.pth", config_yaml=mine)
    with pytest.raises(RegistryError, match=r"unknown .*'Mine'.*Its run imported /place/mine.py: import what it reg"):
        load_trained(path)


def test_a_text_runs_nothing_and_reads_no_file(run, tmp_path):
    for text, said in (
        ("_BASE_: other.yml", "unknown key _BASE_"),
        ("MODEL: !!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("x" * 300_000, "has 300,000 characters; a config has at most"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_trained(rewritten(run, tmp_path / "a.pth", config_yaml=text))


def test_a_wrong_config_says_what_the_checkpoint_is_of(run, tmp_path):
    right = load_trained(run / "model_final.pth")[1]
    wrong = with_values(right, {"MODEL.BACKBONE.TIMM_NAME": "test_resnet", "SOLVER.BASE_LR": 1.0, "MODEL.SEED": 3})
    said = (
        r"The checkpoint was trained as Baseline with build_timm_backbone test_vit; this config differs in "
        r"MODEL\.BACKBONE\.TIMM_NAME \('test_vit' there, 'test_resnet' here\)$"
    )
    with pytest.raises(WeightsError, match=said):
        load_trained(run / "model_final.pth", config=wrong)
    many = {"MODEL.HEADS.WITH_BNNECK": False, "MODEL.HEADS.EMBEDDING_DIM": 8, "MODEL.META_ARCHITECTURE": "MGN"}
    many |= {"MODEL.BACKBONE.NAME": "build_resnet_backbone", "MODEL.BACKBONE.DEPTH": "18x"}
    many |= {"MODEL.BACKBONE.TIMM_NAME": "", "MODEL.BACKBONE.FEAT_DIM": 512, "INPUT.SIZE_TEST": [64, 32]}
    with pytest.raises(
        WeightsError, match=r"differs in MODEL\.META_ARCHITECTURE \('Baseline' there, .* and 4 more keys$"
    ):
        load_trained(run / "model_final.pth", config=with_values(wrong, many))


def test_a_checkpoint_that_fits_its_own_config_no_more_says_so(run, tmp_path):
    state = read_checkpoint(run / "model_final.pth")["model"]
    some = {name: value for name, value in state.items() if "heads" in name}
    with pytest.raises(WeightsError, match="and this config has the same keys of the model$"):
        load_trained(rewritten(run, tmp_path / "a.pth", model=some))
    with pytest.raises(WeightsError) as error:
        load_trained(
            rewritten(run, tmp_path / "b.pth", model=some, config_yaml=None),
            config=load_trained(run / "model_final.pth")[1],
        )
    assert "was trained as" not in str(error.value)


def test_an_asset_that_is_missing_is_named(run):
    cfg = get_cfg()
    cfg.merge_from_file(str(ROOT / "configs/quickstart/stage2_unet.yml"))
    cfg.merge_from_list(["MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH", "nowhere/unet"])
    with pytest.raises(AssetError, match="no UNet in 'nowhere/unet'"):
        load_trained(run / "model_final.pth", config=cfg)
