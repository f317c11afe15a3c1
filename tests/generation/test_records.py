"""Stages of different runs are not mixed: people, models, adapters and reference sets."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from fastreid.config import ConfigError
from fastreid.generation.filtering import filter_pictures, top_up
from fastreid.generation.filters.base import FILTER_REGISTRY
from fastreid.generation.journal import Journal
from fastreid.generation.records import refuse_other_captions, settings_of
from fastreid.generation.shards import Shard
from fastreid.generation.stages import generate, write_reference
from fastreid.methods.diffusion_reid.captions import CAPTIONS_FACT, digest_of_captions, read_captions
from fastreid.methods.diffusion_reid.generator import DiffusionReID
from fastreid.utils.manifest import mark_of
from tests.generation.filters.toys import SharperHalf
from tests.generation.test_stages import GEN, factory  # noqa: F401


@pytest.fixture
def sharper_half(monkeypatch):
    monkeypatch.setitem(FILTER_REGISTRY._objects, "sharper_half", SharperHalf)
    return ["DIFFPERSON.FILTER.NAMES", "['sharper_half']"]


def written(cfg):
    return sorted((row["gid"], row["number"]) for row in Journal(Path(cfg.OUTPUT_DIR) / "pictures").rows())


def test_pictures_are_not_judged_by_images_of_other_people(factory, tmp_path, place, sharper_half):  # noqa: F811
    shutil.copytree(place, tmp_path / "copy")
    table = tmp_path / "copy/people.csv"
    names = ["DATASETS.NAMES", f"['csv:{table}']", "DIFFPERSON.LPE.CAPTION_FILE", str(tmp_path / "copy/captions.jsonl")]
    cfg = factory("factory", *names, *sharper_half)
    generate(cfg, Shard())
    table.write_text(table.read_text().replace(",p1,", ",q1,"))
    with pytest.raises(ConfigError, match="pictures was written with other settings: names of people and images was"):
        filter_pictures(cfg, Shard())
    assert not (tmp_path / "factory/filter").exists()


def test_adapters_are_used_as_they_were_trained(factory, tmp_path):  # noqa: F811
    words = ("DIFFPERSON.GEN.PER_ID", "1")
    cfg = factory("factory", *words)
    (tmp_path / "factory/train/config.yaml").write_text(cfg.dump())
    generate(cfg, Shard())
    before = written(cfg)
    other = factory("factory", "DIFFPERSON.GEN.PER_ID", "2", "DIFFPERSON.TUNE.ALPHA", "160.0")
    with pytest.raises(ConfigError, match=r"trained with other settings: DIFFPERSON.TUNE.ALPHA was 0.0, not 160.0"):
        generate(other, Shard())
    assert written(cfg) == before


def test_other_weights_at_the_same_place_are_refused(make_cfg, assets, tmp_path):
    weights = tmp_path / "sd"
    shutil.copytree(assets, weights)
    words = ("DIFFPERSON.SD.WEIGHTS", str(weights), "DIFFPERSON.DI.ARS_SIZE", "2", "DIFFPERSON.DI.FOLDER", "")
    cfg = make_cfg("OUTPUT_DIR", str(tmp_path / "run"), *GEN, *words)
    write_reference(cfg, Shard(1, 2))
    scheduler = weights / "scheduler/scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"beta_end": 0.02}))
    with pytest.raises(ConfigError, match="with other settings: content of the weights was"):
        write_reference(cfg, Shard(2, 2))


def test_the_pictures_of_the_reference_set_are_a_fact_of_the_training(make_cfg, tmp_path):
    words = ("DIFFPERSON.DI.ARS_SIZE", "2", "DIFFPERSON.DI.FOLDER", "", "DIFFPERSON.DI.ENABLED", "True")
    facts = []
    for steps in ("1", "2", "2"):
        cfg = make_cfg("OUTPUT_DIR", str(tmp_path / f"run{len(facts)}"), *GEN, *words, "DIFFPERSON.GEN.STEPS", steps)
        index = write_reference(cfg, Shard())
        trained = make_cfg(*words, "DIFFPERSON.DI.FOLDER", str(index.parent))
        facts.append(DiffusionReID(trained).training_facts()["the pictures of the reference set"])
    assert facts[0] != facts[1] == facts[2]


def test_another_number_of_pictures_is_no_unfinished_round(factory, sharper_half):  # noqa: F811
    rounds = ["DIFFPERSON.FILTER.MIN_KEEP", "1", "DIFFPERSON.FILTER.MAX_ROUNDS", "1"]
    cfg = factory("factory", "DIFFPERSON.GEN.PER_ID", "4", *sharper_half, *rounds)
    generate(cfg, Shard())
    filter_pictures(cfg, Shard())
    before = written(cfg)
    top_up(factory("factory", "DIFFPERSON.GEN.PER_ID", "3", *sharper_half, *rounds), Shard())
    assert written(cfg) == before


@pytest.mark.parametrize(
    ("words", "present", "absent"),
    [
        (("IIR.MODE", "table"), ["IIR.WORDS", "LPE.CAPTION_FILE"], ["IIR.CLIP", "IIR.INPUT", "LPE.MODEL", "LPE.BATCH"]),
        (("IIR.MODE", "off"), ["IIR.MODE"], ["IIR.WORDS", "IIR.REG"]),
        (("IIR.MODE", "encoder"), ["IIR.CLIP", "IIR.INPUT"], []),
        (("LPE.CAPTIONER", "blip2"), ["LPE.MODEL", "LPE.PREFIX"], ["LPE.CAPTION_FILE"]),
        (("TUNE.MODE", "full"), ["TUNE.PIVOT"], ["TUNE.RANK", "TUNE.ALPHA"]),
        (("TUNE.MODE", "words"), ["TUNE.MODE"], ["TUNE.RANK", "TUNE.PIVOT"]),
        (("DI.ENABLED", False), ["DI.ENABLED"], ["DI.ARS_SIZE"]),
    ],
)
def test_keys_without_effect_are_no_settings(make_cfg, words, present, absent):
    found = settings_of(make_cfg(f"DIFFPERSON.{words[0]}", str(words[1])))
    assert set(present) <= found.keys() and not set(absent) & found.keys()


def test_a_mark_tells_files_names_and_contents_apart(tmp_path):
    def mark(**contents):
        shutil.rmtree(tmp_path / "x", ignore_errors=True)
        (tmp_path / "x").mkdir()
        for name, content in contents.items():
            (tmp_path / "x" / name).write_bytes(content)
        return mark_of(tmp_path / "x")

    large = bytearray(3 * 2**24)
    marks = {mark(a=b"1"), mark(a=b"2"), mark(b=b"1"), mark(a=b"1", b=b""), mark(a=bytes(large))}
    large[0::1000] = b"1" * len(large[0::1000])
    marks.add(mark(a=bytes(large)))
    large[-1] = 7
    marks.add(mark(a=bytes(large)))
    assert len(marks) == 7 and mark(a=b"1") == mark(a=b"1")
    assert mark_of(tmp_path / "none") is None and mark_of(tmp_path / "x", ["none"]) is None


def test_a_model_of_other_captions_is_refused(tmp_path):
    captions, checkpoint = tmp_path / "captions.jsonl", tmp_path / "train/model_final.pth"
    checkpoint.parent.mkdir()
    captions.write_text(json.dumps({"image": "/a/1.png", "caption": "a red top"}) + "\n")
    facts = {CAPTIONS_FACT: digest_of_captions(read_captions(captions))}
    for identity in ({"facts": facts}, {"facts": {}}, None):
        torch.save({"model": {}, "identity": identity}, checkpoint)
        refuse_other_captions(checkpoint, captions)
    torch.save({"model": {}, "identity": {"facts": facts}}, checkpoint)
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"image": "/b/1.png", "caption": "a red top"}) + "\n")  # the image was moved
    refuse_other_captions(checkpoint, other)
    other = tmp_path / "another.jsonl"
    other.write_text(json.dumps({"image": "/a/1.png", "caption": "a green top"}) + "\n")
    with pytest.raises(ConfigError, match="the model in .*train was trained on other captions than .*another.jsonl"):
        refuse_other_captions(checkpoint, other)
