"""Every recipe of the repository can be built: on a tiny benchmark, and at its full size on random weights."""

import gc
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch
from yacs.config import CfgNode

from fastreid.data.benchmarks.image_retrieval import RETRIEVAL_SETS
from fastreid.generation.painter import Painter
from fastreid.generation.plans import PicturePlan
from fastreid.modeling import build_model
from fastreid.solver import build_optimizer
from fastreid.utils.checkpoint import load_weights
from tests.data.benchmarks.attribute_files import write_duke, write_market, write_pa100k
from tests.miniature import FEW_STEPS, ROOT, rendered, run_tool
from tests.recipes import (
    CARGO_STAGE2_FILE,
    PAIRS,
    RECIPES,
    RELEASED,
    TINY_MODEL,
    asset_keys,
    is_stage2,
    merged,
    name_of,
    save_stage1,
    save_teacher,
)

# Dry runs on a tiny benchmark. Stage 1 has its full size.


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    return rendered(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def tiny_assets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assets") / "tiny"
    run_tool("tools/make_assets.py", "--size", "tiny", "--output", str(folder), cwd=folder.parent)
    return folder


@pytest.fixture(scope="session")
def text_assets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text_assets") / "tiny"
    run_tool("tools/make_assets.py", "--size", "tiny", "--text", "--output", str(folder), cwd=folder.parent)
    return folder


def dry_run(recipe: Path, data_root: Path, output: Path, *words: str) -> str:
    keys = [word for word in words if not word.startswith("--overlay=")]
    flags = [word for word in words if word not in keys]
    common = ["DATASETS.ROOT", str(data_root), "OUTPUT_DIR", str(output), "DATASETS.SUBSET.MODE", "none", *FEW_STEPS]
    command = ["tools/train_net.py", "--config-file", str(recipe), "--dry-run", *flags, *common, *keys]
    if recipe.parent.name == "quickstart":
        return run_tool(*command, cwd=ROOT)
    # The quickstarts have a model of each method. Counting the memory takes seconds, and so do initial values.
    with (
        mock.patch("fastreid.engine.memory.memory_summary", return_value="not counted"),
        mock.patch.object(torch.Tensor, "uniform_", zeroed),
        mock.patch.object(torch.Tensor, "normal_", zeroed),
    ):
        return run_tool(*command, cwd=ROOT)


def zeroed(tensor: torch.Tensor, *words: object, **options: object) -> torch.Tensor:
    return tensor.zero_()


def assert_described(said: str, recipe: Path, names: tuple[str, ...] = ()) -> None:
    """Check the output of a dry run; `names` are its training sets, if they are not those of the recipe."""
    cfg = merged(recipe)
    cfg.DATASETS.NAMES = names or cfg.DATASETS.NAMES
    iterations = cfg.SOLVER.ITERS_PER_EPOCH or 4 * len(cfg.DATASETS.NAMES)
    assert f"2 epochs of {iterations} iterations, {2 * iterations} in all" in said
    train = next(
        line.split() for line in said.splitlines() if line.startswith(cfg.DATASETS.NAMES[0]) and " train " in line
    )
    assert (train[2], train[4]) == ("64", "8")  # images, people
    tests = names if recipe.parent.name in ("small", "retrieval") else cfg.DATASETS.TESTS
    assert [name for name in tests if f"{name} " not in said] == []
    assert "is not known:" not in said and ("not counted" in said or "at the same time" in said)


# Parameters of backbones: ViT-B/16 at 256 x 128, with the view prompt and without; ResNet-50, without and with five
# non-local blocks of 7 C + 3 each.
FULL_SIZE = dict.fromkeys(("base_stage1", "base_stage1_128"), "85,747,200")
FULL_SIZE |= {"bagtricks_vit": "85,746,432"}
# CLIP has no bias in the patch embedding, and has a LayerNorm before the blocks, and a projection to 512 channels.
FULL_SIZE |= {"clip_vit": "86,140,416", "clip_stage1": "85,747,968", "DCAC/market1501": "86,140,416"}
FULL_SIZE |= dict.fromkeys(("bagtricks_R50", "bagtricks_R50-ibn", "cluster_contrast", "pplr"), "23,508,032")
# With localisation network, denoiser and classifiers of 3,000 rows, as published.
FULL_SIZE |= dict.fromkeys(("PISL/market1501", "PISL/msmt17", "PISL/veri"), "128,892,004")
FULL_SIZE |= {"sbs_R101-ibn": "42,500,160", "kd_R34": "21,284,672", "kd_R34_overhaul": "21,284,672"}
FULL_SIZE |= dict.fromkeys(("AGW_R50", "sbs_R50"), "23,536,719")
# Swin-T, whose last stage has windows of 7 x 4 at 256 x 128: two tables of 78 rows less.
FULL_SIZE |= {"pretrain_r50": "23,508,032", "pretrain_swin_tiny": f"{27_519_354 - 2 * 78 * 24:,}"}


# The generator without captions, reference set and CLIP, which other stages write or others publish.
WITHOUT_EARLIER_STAGES = (
    *("DIFFPERSON.LPE.CAPTIONER", "none", "DIFFPERSON.DI.ENABLED", "False", "DIFFPERSON.IIR.MODE", "table"),
    *("DATASETS.PEOPLE", "[0.0, 1.0]"),
)


ATTRIBUTES = [path for path in RECIPES if path.parent.name == "Attributes"]


@pytest.mark.parametrize("recipe", ATTRIBUTES, ids=name_of)
def test_every_recipe_of_attributes_can_be_built(recipe, tmp_path):
    write_pa100k(tmp_path)
    write_market(tmp_path, each=8)
    write_duke(tmp_path, each=8)
    said = dry_run(recipe, tmp_path, tmp_path / "dry", "MODEL.BACKBONE.PRETRAIN", "False")
    counts = {
        "pa100k": ["PA100K", "12", "26"],
        "market1501_attributes": ["Market1501Attr", "16", "30"],
        "dukemtmc_attributes": ["DukeMTMCAttr", "16", "23"],
    }[recipe.stem]
    assert "2 epochs of 1 iterations, 2 in all" in said and "23,508,032" in said
    assert counts in [line.split() for line in said.splitlines()]


@pytest.mark.parametrize("recipe", [path for path in RECIPES if path not in ATTRIBUTES], ids=name_of)
def test_every_recipe_can_be_built(recipe, data_root, tiny_assets, text_assets, tmp_path):
    keys = ["MODEL.BACKBONE.PRETRAIN", "False"]
    if merged(recipe).MODEL.META_ARCHITECTURE == "DCAC":
        keys += ["DCAC.SD.WEIGHTS", str(tiny_assets), "DCAC.LORA.RANK", "2", "MODEL.WEIGHTS", ""]
        if recipe.parent.name == "DCAC" and recipe.stem != "market1501":
            keys += ["MODEL.BACKBONE.DEPTH", "mini", "MODEL.BACKBONE.FEAT_DIM", "128"]
    if merged(recipe).MODEL.META_ARCHITECTURE == "DiffusionReID":
        keys = ["DIFFPERSON.SD.WEIGHTS", str(text_assets), *WITHOUT_EARLIER_STAGES]
    if merged(recipe).MODEL.META_ARCHITECTURE in ("Distiller", "DistillerOverhaul"):
        keys += ["KD.MODEL_WEIGHTS", str([save_teacher(recipe, tmp_path / "teacher.pth")])]
    if merged(recipe).MODEL.META_ARCHITECTURE == "PISL":
        keys += ["MODEL.WEIGHTS", ""]
    if is_stage2(merged(recipe)):
        keys = [*TINY_MODEL, *asset_keys(tiny_assets)]
        keys += save_stage1(recipe, tmp_path / "stage1.pth", *keys)
    # Generated people, those of users and other things are in no benchmark that can be rendered.
    elsewhere = {"DiffPerson", "csv:people.csv", *(each.name for each in RETRIEVAL_SETS)}
    names = ("Market1501",) if elsewhere & {*merged(recipe).DATASETS.NAMES} else ()
    keys += ["DATASETS.NAMES", str(names)] if names else []
    keys += ["DATASETS.TESTS", str(names)] if recipe.parent.name in ("small", "retrieval") else []
    said = dry_run(recipe, data_root, tmp_path / "dry", *keys)
    assert_described(said, recipe, names)
    assert FULL_SIZE.get(f"{recipe.parent.name}/{recipe.stem}", FULL_SIZE.get(recipe.stem, "")) in said
    assert not list((tmp_path / "dry").glob("*.pth"))


@pytest.mark.parametrize("recipe", [p for p in RECIPES if is_stage2(merged(p))], ids=name_of)
def test_every_stage2_can_be_built_with_the_overlay(recipe, data_root, tiny_assets, tmp_path):
    keys = [*TINY_MODEL, *asset_keys(tiny_assets)]
    keys += save_stage1(recipe, tmp_path / "stage1.pth", *keys)
    assert_described(dry_run(recipe, data_root, tmp_path / "dry", f"--overlay={RELEASED}", *keys), recipe)
    written = CfgNode.load_cfg((tmp_path / "dry/config.yaml").read_text())
    assert written.MODEL.SDMODEL.VIEW_CONTROL == "down"


# The full size, on random weights in the shapes of Stable Diffusion 1.5.


@pytest.fixture(scope="module")
def true_size(tmp_path_factory):
    """Config keys with the paths of 4.6 GB of random assets and of a stage 1 with a ViT-B/16."""
    folder = tmp_path_factory.mktemp("true_size")
    run_tool("tools/make_assets.py", "--size", "sd15", "--text", "--output", str(folder / "sd15"), cwd=folder)
    yield [*asset_keys(folder / "sd15"), *save_stage1(CARGO_STAGE2_FILE, folder / "stage1.pth")]
    shutil.rmtree(folder)


# The published number of trained parameters; AG-ReID.v2 has a second block in the condition learner. It includes the
# decoder maps, which have no effect with the released overlay and are frozen there.
PUBLISHED_TRAINED = {"v2": 24_698_240}
DECODER_MAPS = 95_680


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [0, DECODER_MAPS], ids=["described", "released"])
@pytest.mark.parametrize("pair", PAIRS)
def test_stage2_at_its_true_size(pair, frozen, data_root, true_size, tmp_path):
    recipe = ROOT / f"configs/{PAIRS[pair][1]}.yml"
    keys = [*true_size, *save_stage1(recipe, tmp_path / "stage1.pth", *true_size)]
    said = dry_run(recipe, data_root, tmp_path, *[f"--overlay={RELEASED}"][: bool(frozen)], *keys)
    assert_described(said, recipe)
    parts = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.count(",") > 1}
    assert parts["person.backbone"] == ["85,747,200", "0"]
    assert parts["denoiser"][0] == "859,520,964"
    assert parts["total"][1] == f"{PUBLISHED_TRAINED.get(pair, 17_610_368) - frozen:,}"


@pytest.fixture
def within_24_gib():
    """The test takes at most 24 GiB of memory, beside what the process had before."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak restarts
    before = resident("VmRSS")
    yield
    assert resident("VmHWM") - before < 24 * 2**20


def resident(name):
    """Return a number of KiB that Linux tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


@pytest.mark.slow
@pytest.mark.usefixtures("within_24_gib")
@pytest.mark.parametrize("overlays", [[], [RELEASED]], ids=["described", "released"])
def test_cargo_stage2_trains_a_step_and_samples_on_a_cpu(true_size, overlays):
    cfg = merged(CARGO_STAGE2_FILE, *overlays)
    cfg.merge_from_list([*true_size, "MODEL.DEVICE", "cpu"])
    model = build_model(cfg, num_classes=8).train()
    load_weights(model, cfg.MODEL.WEIGHTS, to_train=True)
    batch = {
        "images": torch.rand(2, 3, 256, 128) * 255,
        "targets": torch.tensor([0, 0]),
        "viewids": torch.tensor([0, 1]),
        "img_paths": ["a.jpg", "b.jpg"],
    }
    optimizer = build_optimizer(cfg, model)
    sum(model(batch).values()).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with torch.inference_mode():
        features = model.eval()(batch)
    assert features.shape == (2, 3 * 768) and features.isfinite().all()  # the person and two views


def folder_of(true_size: list[str]) -> Path:
    """Return the folder of the assets of these keys."""
    return Path(true_size[true_size.index("MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH") + 1]).parent


@pytest.mark.slow
@pytest.mark.usefixtures("within_24_gib")
def test_a_generator_trains_a_step_and_writes_a_picture_on_a_cpu(true_size):
    cfg = merged(ROOT / "configs/DiffPerson/base.yml")
    folder = folder_of(true_size)
    cfg.merge_from_list(["DIFFPERSON.SD.WEIGHTS", str(folder), "MODEL.DEVICE", "cpu", *WITHOUT_EARLIER_STAGES])
    model = build_model(cfg, num_classes=5183).train()
    optimizer = build_optimizer(cfg, model)
    before = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    losses = model({"images": torch.rand(1, 3, 512, 256) * 255, "targets": torch.tensor([5182]), "img_paths": ["a"]})
    sum(losses.values()).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    changed = {
        name for name, value in model.named_parameters() if name in before and not torch.equal(value, before[name])
    }
    assert "words.vectors" in changed and len(changed) > 0.4 * len(before)  # lora_A has no gradient while lora_B is 0
    words = model.eval().words
    painter = Painter(
        text=model.text, vae=model.autoencoder.vae, unet=model.denoiser.unet, schedule=model.schedule,
        size=(512, 256), num_steps=2, guidance=7.5, batch_size=1, vectors_of=words,
    )  # fmt: skip
    (picture,) = painter.paint([PicturePlan(5182, 0, "a photo of a <id> person, a red top", 1, {})])
    assert picture.size == (256, 512) and sum(value.numel() for value in before.values()) > 3_000_000


@pytest.mark.slow
@pytest.mark.usefixtures("within_24_gib")
def test_dcac_trains_a_step_on_a_cpu(true_size):
    cfg = merged(ROOT / "configs/DCAC/market1501.yml")
    folder = folder_of(true_size)
    cfg.merge_from_list(["DCAC.SD.WEIGHTS", str(folder), "MODEL.BACKBONE.PRETRAIN", False, "MODEL.DEVICE", "cpu"])
    model = build_model(cfg, num_classes=751).train()
    optimizer, trained = build_optimizer(cfg, model), [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    batch = {
        "images": torch.rand(4, 3, 256, 128) * 255,
        "diffusion_images": torch.rand(4, 3, 128, 128) * 255,
        "targets": torch.tensor([0, 0, 1, 1]),
    }
    losses = model(batch)
    assert set(losses) == {"loss_cls", "loss_prototype", "loss_diffusion"} and all(map(torch.isfinite, losses.values()))
    sum(losses.values()).backward()
    optimizer.step()
    assert sum(not torch.equal(a, b) for a, b in zip(before, trained, strict=True)) > 0.5 * len(trained)
