"""Files of fast-reid's older versions and of the SD-ReID release, unmodified."""

import pytest

from fastreid.config import ConfigError, get_cfg, refuse_unsupported
from fastreid.config.notices import notify
from fastreid.config.renames import RETIRED
from fastreid.methods.sd_reid import release_config
from fastreid.methods.sd_reid.release_config import MODELS, OWN_KEYS

# Full-length, as the release ships them: keys of everything it inherits, whether it reads them or not.
OFFICIAL_STAGE2 = """
MODEL:
  META_ARCHITECTURE: "Baseline_stage2_old"
  DEVICE: "cpu"
  SEED: 1111
  PIXEL_MEAN: [127.5, 127.5, 127.5]
  PIXEL_STD: [127.5, 127.5, 127.5]
  WEIGHTS: "logs/cargo/base_stage1_beta/model_best.pth"
  BACKBONE:
    NAME: "build_vit_prompt"
    DEPTH: "base"
    FEAT_DIM: 768
    PRETRAIN: False
    PRETRAIN_PATH: "pretrained/jx_vit_base_p16_224-80ecf9dd.pth"
    STRIDE_SIZE: (16, 16)
    DROP_PATH_RATIO: 0.1
    DROP_RATIO: 0.0
    ATT_DROP_RATE: 0.0
    SIE_COE: 3.0
    CAMERA_NUM: 13
    INNER_SUB: True
  HEADS:
    NAME: "EmbeddingHead"
    NORM: "BN"
    WITH_BNNECK: True
    NECK_FEAT: "before"
    POOL_LAYER: "Identity"
    CLS_LAYER: "Linear"
  LOSSES:
    NAME: ("CrossEntropyLoss", "TripletLoss",)
    CE: {EPSILON: 0., SCALE: 1., VIEW_ID: True, VIEW_OREG: True, VIEW_LAMBDA: 0.001}
    TRI: {MARGIN: 0.0, HARD_MINING: True, NORM_FEAT: False, SCALE: 1.}
  SDMODEL:
    FIRST_STAGE_CONFIG: {PRETRAINED_PATH: "pretrained/stable-diffusion-v1-5/vae"}
    U_COND_PERCENT: 0.05
    TRAIN_STEP: 1000
    VIEW_NUM: 2
    MOEMNTUM: 0.8
    SCHEDULER_CONFIG:
      NAME: "ddpm"
      PRETRAINED_PATH: "pretrained/stable-diffusion-v1-5/scheduler"
      CUBIC_SAMPLING: True
    UNET_CONFIG:
      PRETRAINED_PATH: "pretrained/stable-diffusion-v1-5/unet"
      TRAINABLE_BLOCK_IDX: [11, 10, 9, 8, 7, 6, 5, 4, 3]
      TRAIN_SELF_ATTN_Q: False
      TRAIN_CROSS_ATTN_K: True
    CON_LEARNER_CONFIG:
      N_CTX: 12
      CTX_DIM: 768
      DEPTH: 1
      HEADS: 12
      POSE_QUERY: True
      IN_CHANNEL: 640
      OUT_CHANNELS: [320, 640, 1280, 320, 640, 1280]
      SWITCH: 2
      SWITCH2: 1
INPUT:
  SIZE_TRAIN: [256, 128]
  SIZE_TEST: [256, 128]
  FLIP: {ENABLED: True}
DATALOADER: {SAMPLER_TRAIN: "NaiveIdentitySampler", NUM_INSTANCE: 4, NUM_WORKERS: 8}
SOLVER:
  AMP: {ENABLED: True}
  OPT: "Adam"
  SCHED: "LinearWarmupMultiStepDecayLRScheduler"
  BASE_LR: 0.0001
  WARMUP_FACTOR: 0.01
  WARMUP_ITERS: 1000
  DECAY_EPOCHS: [50]
  MAX_EPOCH: 120
  IMS_PER_BATCH: 128
  CHECKPOINT_PERIOD: 5
TEST:
  EVAL_PERIOD: 100
  IMS_PER_BATCH: 1024
  SDMODEL: {NUM_INFERENCE_STEPS: 5, INVERSE_TYPE: "uc_full"}
DATASETS:
  NAMES: ("CARGO",)
  TESTS: ("CARGO", "CARGO_GG", "CARGO_AA", "CARGO_AG",)
OUTPUT_DIR: logs/cargo/base_stage2_step5
"""


@pytest.fixture(autouse=True)
def notify_again():
    notify.cache_clear()


def merge(tmp_path, text, name="recipe.yml"):
    (tmp_path / name).write_text(text)
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / name))
    return cfg


def test_an_official_stage2_file_loads_and_selects_the_released_behaviour(tmp_path, caplog):
    cfg = merge(tmp_path, OFFICIAL_STAGE2)
    refuse_unsupported(cfg)
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME) == ("SDReIDStage2", "build_vit_backbone")
    assert cfg.MODEL.SDMODEL.MOMENTUM == 0.8 and cfg.MODEL.SDMODEL.CON_LEARNER_CONFIG.N_CTX == 12
    assert (cfg.TEST.SDMODEL.NOISE, cfg.TEST.SDMODEL.CONTROL_STEPS) == ("fresh", "fading")
    assert cfg.MODEL.SDMODEL.VIEW_CONTROL == "down" and cfg.TEST.SDMODEL.FUSION == "concat"
    assert cfg.TEST.SDMODEL.NUM_INFERENCE_STEPS == 5  # the file's own keys win over the overlay
    said = [record.getMessage() for record in caplog.records]
    assert sum("released behaviour is selected" in line for line in said) == 1
    for key in (
        "MODEL.SDMODEL.MOEMNTUM is called MODEL.SDMODEL.MOMENTUM",
        "MODEL.SDMODEL.FIRST_STAGE_CONFIG.PRETRAINED_PATH is not needed",
        *(f"{key} is not needed" for key in OWN_KEYS),
    ):
        assert sum(key in line for line in said) == 1, key


def test_each_rename_is_logged_once(tmp_path, caplog):
    for _ in range(2):
        merge(tmp_path, "SOLVER: {MAX_ITER: 60}")
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/recipe.yml: SOLVER.MAX_ITER is called SOLVER.MAX_EPOCH here (it has always counted epochs)"
    ]


@pytest.mark.parametrize("architecture", MODELS)
def test_three_view_classes_are_a_number_here(tmp_path, architecture):
    cfg = merge(tmp_path, f"MODEL: {{META_ARCHITECTURE: {architecture}}}")
    assert cfg.MODEL.SDMODEL.VIEW_NUM == (3 if "3view" in architecture else 2)
    assert (cfg.TEST.SDMODEL.NOISE == "fresh") == ("stage2" in architecture)


def test_keys_that_the_release_ignores_are_refused_elsewhere(tmp_path):
    with pytest.raises(ConfigError, match="VIEW_OREG=True .the orthogonality loss is VDT's"):
        refuse_unsupported(merge(tmp_path, "MODEL: {LOSSES: {CE: {VIEW_OREG: True}}}"))


def test_a_switch_that_crashes_the_release_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="SWITCH2 in .*recipe.yml is 0: the release's stage 2 runs with 1 only"):
        merge(tmp_path, OFFICIAL_STAGE2.replace("SWITCH2: 1", "SWITCH2: 0"))


def test_a_stage1_file_may_say_anything_of_stage2(tmp_path):
    text = OFFICIAL_STAGE2.replace("Baseline_stage2_old", "Baseline_stage1").replace("SWITCH2: 1", "SWITCH2: 0")
    cfg = merge(tmp_path, text)
    refuse_unsupported(cfg)
    assert cfg.MODEL.META_ARCHITECTURE == "SDReIDStage1" and cfg.TEST.SDMODEL.NOISE == "shared"


def test_a_file_of_the_release_may_rely_on_its_defaults(tmp_path):
    cfg = merge(tmp_path, OFFICIAL_STAGE2.replace("      DEPTH: 1\n      HEADS: 12\n", ""))
    assert (cfg.MODEL.SDMODEL.CON_LEARNER_CONFIG.DEPTH, cfg.MODEL.SDMODEL.CON_LEARNER_CONFIG.HEADS) == (8, 24)


def test_officialness_is_that_of_the_chain(tmp_path):
    (tmp_path / "official.yml").write_text(OFFICIAL_STAGE2)
    own = "_BASE_: official.yml\nMODEL: {LOSSES: {CE: {VIEW_OREG: True}}}\nTEST: {SDMODEL: {FUSION: weighted}}\n"
    cfg = merge(tmp_path, own, name="own.yml")
    refuse_unsupported(cfg)
    assert (cfg.TEST.SDMODEL.FUSION, cfg.TEST.SDMODEL.NOISE) == ("weighted", "fresh")
    base = "TEST: {SDMODEL: {NUM_DRAWS: 4}}\n"
    (tmp_path / "base.yml").write_text(base)
    cfg = merge(tmp_path, "_BASE_: base.yml\nMODEL: {META_ARCHITECTURE: Baseline_stage2_old}\n", name="child.yml")
    assert (cfg.TEST.SDMODEL.NUM_DRAWS, cfg.TEST.SDMODEL.NOISE) == (4, "fresh")


def test_the_order_of_pairs_on_the_command_line_does_not_matter():
    cfg = get_cfg()
    cfg.merge_from_list(["TEST.SDMODEL.NUM_DRAWS", "4", "MODEL.META_ARCHITECTURE", "Baseline_stage2_old"])
    assert (cfg.TEST.SDMODEL.NUM_DRAWS, cfg.TEST.SDMODEL.NOISE) == (4, "fresh")
    cfg.merge_from_list(["MODEL.SDMODEL.CON_LEARNER_CONFIG.SWITCH2", "1"])


def test_two_names_of_one_key_in_a_file_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="has both SOLVER.MAX_(ITER|EPOCH) and SOLVER.MAX_EPOCH, two names"):
        merge(tmp_path, "SOLVER: {MAX_EPOCH: 60, MAX_ITER: 90}")


ALL_RETIRED = RETIRED | release_config.RETIRED
OLD_VALUES = {
    "SOLVER.MAX_ITER": (90, 90),
    "SOLVER.DELAY_ITERS": (30, 30),
    "SOLVER.FP16_ENABLED": (True, True),
    "INPUT.REA.MEAN": ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
    "INPUT.FLIP_PROB": (0.3, 0.3),
    "INPUT.PADDING_MODE": ("reflect", "reflect"),
    "INPUT.PADDING_SIZE": (7, 7),
    "MODEL.HEADS.IN_FEAT": (512, 512),
    "DATALOADER.PK_SAMPLER": (True, "NaiveIdentitySampler"),
    "MODEL.SDMODEL.MOEMNTUM": (0.7, 0.7),
}


@pytest.mark.parametrize("key", ALL_RETIRED)
def test_every_retired_key_from_a_file_and_from_the_command_line(key, caplog):
    old, new = OLD_VALUES.get(key, (True, True))
    cfg = get_cfg()
    cfg.merge_from_list([key, str(old)])
    assert f"the command line: {key} is " in caplog.text
    if target := ALL_RETIRED[key].key:
        node = cfg
        for part in target.split("."):
            node = node[part]
        assert node == new


def test_a_retired_switch_with_another_value_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="PK_SAMPLER in .* is 'yes please'; legal: True, False"):
        merge(tmp_path, "DATALOADER: {PK_SAMPLER: yes please}")


def test_a_fast_reid_recipe_with_a_chain_of_bases(tmp_path):
    (tmp_path / "Base-bagtricks.yml").write_text(
        "MODEL: {META_ARCHITECTURE: Baseline, HEADS: {WITH_BNNECK: True}}\n"
        "INPUT: {DO_FLIP: True, DO_PAD: True, REA: {ENABLED: True, MEAN: [0., 0., 0.]}}\n"
        "DATALOADER: {PK_SAMPLER: True, NUM_INSTANCE: 4}\n"
        "SOLVER: {OPT: Adam, MAX_ITER: 120, FP16_ENABLED: True, LOG_PERIOD: 200}\n"
    )
    (tmp_path / "Base-AGW.yml").write_text("_BASE_: Base-bagtricks.yml\nMODEL: {LOSSES: {TRI: {MARGIN: 0.0}}}\n")
    cfg = merge(tmp_path, "_BASE_: Base-AGW.yml\nSOLVER: {MAX_ITER: 60}\n")
    assert (cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.AMP.ENABLED, cfg.INPUT.FLIP.ENABLED) == (60, True, True)
    assert cfg.DATALOADER.SAMPLER_TRAIN == "NaiveIdentitySampler" and cfg.MODEL.LOSSES.TRI.MARGIN == 0.0
