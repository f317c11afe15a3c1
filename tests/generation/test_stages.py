"""The stages from captions to pictures: restarts, shards and other settings."""

import json
import operator
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid.config import ConfigError
from fastreid.generation.caption import caption
from fastreid.generation.filtering import filter_pictures, top_up
from fastreid.generation.filters.base import FILTER_REGISTRY
from fastreid.generation.journal import Journal
from fastreid.generation.painter import Painter
from fastreid.generation.people import people_of
from fastreid.generation.plans import PicturePlan
from fastreid.generation.rows import JournalError
from fastreid.generation.shards import Shard
from fastreid.generation.stages import generate, write_reference
from fastreid.methods.diffusion_reid.generator import DiffusionReID
from tests.generation.filters.toys import SharperHalf

GEN = ("DIFFPERSON.GEN.STEPS", "2", "DIFFPERSON.GEN.PER_ID", "3", "DIFFPERSON.GEN.BATCH", "2")


def checkpoint(cfg, folder, seed=4):
    """Write a checkpoint of a generator whose adapters and words differ from those at the start."""
    torch.manual_seed(seed)
    model = DiffusionReID(cfg)
    state = {name: value + 0.1 * torch.randn_like(value) for name, value in model.checkpoint_state_dict().items()}
    folder.mkdir(parents=True)
    torch.save({"model": state}, folder / "model_final.pth")


@pytest.fixture
def factory(make_cfg, tmp_path):
    """A config whose captions are written and whose generator is trained."""

    def make(name="factory", *words):
        cfg = make_cfg("OUTPUT_DIR", str(tmp_path / name), *GEN, *words)
        cfg.freeze()
        caption(cfg, Shard())
        if not (tmp_path / name / "train").exists():
            checkpoint(cfg, tmp_path / name / "train")
        return cfg

    return make


def pictures(cfg):
    folder = f"{cfg.OUTPUT_DIR}/pictures"
    rows = [json.loads(line) for path in _manifests(folder) for line in path.read_text().splitlines()]
    return {
        (row["gid"], row["number"]): (np.asarray(Image.open(f"{folder}/{row['file']}")).tobytes(), row) for row in rows
    }


def _manifests(folder):
    return sorted(Path(folder).glob("manifest-*.jsonl"))


def test_people_have_the_numbers_of_the_training_classes(make_cfg):
    people = people_of(make_cfg())
    assert [(who.gid, who.person, len(who.images)) for who in people] == [(0, "p0", 2), (1, "p1", 2), (2, "p2", 2)]
    assert all(f"train_{who.gid}_" in image.path for who in people for image in who.images)


def test_captions_in_shards_are_those_of_one_run(make_cfg, tmp_path):
    whole, parts = (make_cfg("OUTPUT_DIR", str(tmp_path / name)) for name in ("whole", "parts"))
    assert caption(whole, Shard()) is not None
    assert caption(parts, Shard(2, 2)) is None
    path = caption(parts, Shard(1, 2))
    assert path.read_bytes() == (tmp_path / "whole/captions/captions.jsonl").read_bytes()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0]["attributes"] == {"upper": "a red top", "lower": "blue trousers", "action": "walking"}


def test_captions_are_read_not_made_again(make_cfg, tmp_path, monkeypatch):
    cfg = make_cfg("OUTPUT_DIR", str(tmp_path / "f"))
    first = caption(cfg, Shard()).read_bytes()
    from fastreid.generation import captioners

    def refuse(paths):
        raise AssertionError(paths)

    monkeypatch.setitem(captioners.CAPTIONER_REGISTRY._objects, "file", lambda cfg: refuse)
    assert caption(cfg, Shard()).read_bytes() == first


def test_the_reference_set_is_the_same_in_shards_and_after_training(make_cfg, tmp_path):
    words = ("DIFFPERSON.DI.FOLDER", "", "DIFFPERSON.DI.ARS_SIZE", "3", "DIFFPERSON.GEN.STEPS", "2")
    whole, parts = (make_cfg("OUTPUT_DIR", str(tmp_path / name), *words) for name in ("whole", "parts"))
    index = write_reference(whole, Shard())
    checkpoint(make_cfg(), tmp_path / "parts/train")  # the reference set does not read it
    assert write_reference(parts, Shard(1, 2)) is None
    other = write_reference(parts, Shard(2, 2))
    assert other.read_bytes() == index.read_bytes()
    for number in range(3):
        name = f"{number:04d}.png"
        assert (other.parent / name).read_bytes() == (index.parent / name).read_bytes()
    assert (other.parent / "sheet.jpg").is_file()
    whole_picture = (other.parent / "0001.png").read_bytes()
    leftover = other.parent / ".0002.png.abcdefgh.tmp"
    leftover.touch()
    (other.parent / "0001.png").write_bytes(whole_picture[:200])
    write_reference(parts, Shard())
    assert (other.parent / "0001.png").read_bytes() == whole_picture and not leftover.exists()


def test_the_same_pictures_in_shards_in_other_batches_and_after_a_stop(factory, monkeypatch):
    whole = factory("whole")
    assert generate(whole, Shard()) == 9
    expected = pictures(whole)
    assert {key[0] for key in expected} == {0, 1, 2} and len(expected) == 9
    assert len({pixels for pixels, _ in expected.values()}) == 9

    parts = factory("parts")
    assert generate(parts, Shard(2, 2)) == 3
    paint, calls = Painter.paint, []

    def stop(self, plans):
        calls.append(plans)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return paint(self, plans)

    monkeypatch.setattr(Painter, "paint", stop)
    with pytest.raises(KeyboardInterrupt):
        generate(parts, Shard(1, 2))
    monkeypatch.setattr(Painter, "paint", paint)
    assert len(pictures(parts)) == 5
    assert generate(parts, Shard()) == 4  # with another number of shards
    found = pictures(parts)
    assert found == expected
    assert generate(parts, Shard()) == 0

    others = pictures_of(factory("batches", "DIFFPERSON.GEN.BATCH", "5"))
    for key, (pixels, row) in expected.items():
        difference = np.frombuffer(others[key][0], np.uint8).astype(int) - np.frombuffer(pixels, np.uint8)
        assert np.abs(difference).max() <= 1 and others[key][1] == row


def pictures_of(cfg):
    generate(cfg, Shard())
    return pictures(cfg)


def test_rows_say_how_a_picture_was_written(factory):
    cfg = factory()
    generate(cfg, Shard())
    row = pictures(cfg)[1, 2][1]
    assert row["file"] == "00001/0002.png" and row["person"] == "p1" and row["source"].startswith("csv:")
    assert row["prompt"] == f"a photo of a <id> person, {row['caption']}" and row["steps"] == 2


def test_other_settings_are_refused_and_nothing_is_changed(factory):
    cfg = factory()
    generate(cfg, Shard())
    before = pictures(cfg)
    other = factory("factory", "DIFFPERSON.GEN.GUIDANCE", "3.0")
    with pytest.raises(ConfigError, match="with other settings: guidance was 7.5, not 3.0.*Nothing was changed"):
        generate(other, Shard())
    assert pictures(cfg) == before


def captions_file(place, folder, **changes):
    """Write the captions of the three people with other words, and return the file."""
    lines = (place / "captions.jsonl").read_text().splitlines()
    rows = [json.loads(line) | {"image": str(place / json.loads(line)["image"])} for line in lines]
    for before, after in changes.items():
        rows[1]["caption"] = rows[1]["caption"].replace(before.replace("_", " "), after)
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder / "c.jsonl")


def test_other_captions_are_told_and_never_mixed(factory, tmp_path, place, caplog):
    file = captions_file(place, tmp_path, a_red_top="a green jacket")
    words = ("DIFFPERSON.LPE.CAPTION_FILE", file)
    cfg = factory("one", *words)
    generate(cfg, Shard(), per_person=1)
    before = (tmp_path / "one/captions/captions.jsonl").read_bytes()
    other = factory("one", *words, "DIFFPERSON.LPE.MERGE", "False")  # captions again, by another rule
    assert "captions.jsonl is written anew: the grammar, DIFFPERSON.LPE.MERGE or the place of the" in caplog.text
    assert (tmp_path / "one/captions/captions.jsonl").read_bytes() != before
    with pytest.raises(ConfigError, match="with other settings: captions was .*Nothing was changed"):
        generate(other, Shard())
    captions_file(place, tmp_path, a_red_top="a white top")
    with pytest.raises(ConfigError, match="with other settings: content of the caption file was .*Nothing was changed"):
        caption(other, Shard())


def test_other_people_of_the_same_number_are_refused(factory, tmp_path, place):
    shutil.copytree(place, tmp_path / "copy")
    table = tmp_path / "copy/people.csv"
    names = ("DATASETS.NAMES", f"['csv:{table}']", "DIFFPERSON.LPE.CAPTION_FILE", str(tmp_path / "copy/captions.jsonl"))
    cfg = factory("factory", *names)
    generate(cfg, Shard())
    table.write_text(table.read_text().replace(",p1,", ",q1,"))
    for stage in (caption, generate):
        with pytest.raises(ConfigError, match="with other settings: names of people and images was"):
            stage(cfg, Shard())


def test_a_round_that_was_stopped_ends_before_it_is_judged(factory, monkeypatch):
    monkeypatch.setitem(FILTER_REGISTRY._objects, "sharper_half", SharperHalf)
    words = ["DIFFPERSON.GEN.PER_ID", "6", "DIFFPERSON.FILTER.NAMES", "['sharper_half']"]
    words += ["DIFFPERSON.FILTER.MIN_KEEP", "6", "DIFFPERSON.FILTER.MAX_ROUNDS", "3"]

    def topped_up(name, count):
        cfg = factory(name, *words)
        generate(cfg, Shard())
        filter_pictures(cfg, Shard())
        generate(cfg, Shard(), per_person=count)  # as far as a killed top-up came
        top_up(cfg, Shard())
        return [(row["gid"], row["number"], row["kept"]) for row in Journal(Path(cfg.OUTPUT_DIR) / "filter").rows()]

    whole = topped_up("whole", 6)
    assert len(whole) >= 3 * 12 and all(topped_up(f"part{count}", count) == whole for count in (7, 11))


def test_pictures_that_are_gone_or_damaged_are_written_again(factory, caplog):
    cfg = factory()
    generate(cfg, Shard())
    before = pictures(cfg)
    folder = Path(cfg.OUTPUT_DIR) / "pictures"
    (folder / "00001/0002.png").unlink()
    (folder / "00002/0000.png").write_bytes(b"")
    leftover = folder / "00000/.0001.png.abcdefgh.tmp"  # of a picture that is whole
    leftover.touch()
    assert generate(cfg, Shard()) == 2
    assert "2 pictures of the manifest are gone or damaged; they are written again" in caplog.text
    assert not leftover.exists()
    assert pictures(cfg) == before
    assert sum(len(path.read_text().splitlines()) for path in _manifests(folder)) == 9


def test_a_reference_set_of_the_user_is_not_overwritten(make_cfg, place):
    before = {path.name: path.read_bytes() for path in (place / "reference").iterdir()}
    with pytest.raises(ConfigError, match=r"reference has files that this stage did not write \(0.png, 1.png"):
        write_reference(make_cfg(), Shard())
    after = {path.name: path.read_bytes() for path in (place / "reference").iterdir() if path.suffix != ".lock"}
    assert after == before


def test_more_pictures_continue_the_numbers(factory):
    cfg = factory()
    generate(cfg, Shard())
    before = pictures(cfg)
    assert generate(cfg, Shard(), per_person=5, only=[1]) == 2
    after = pictures(cfg)
    assert after.keys() - before.keys() == {(1, 3), (1, 4)} and before.items() <= after.items()


def test_words_and_adapters_change_the_pictures(factory, tmp_path):
    first = pictures_of(factory("first"))
    shutil.copytree(tmp_path / "first/captions", tmp_path / "second/captions")
    cfg = factory("second")
    path = tmp_path / "second/train/model_final.pth"
    state = torch.load(path, weights_only=True)
    state["model"]["words.vectors"] = state["model"]["words.vectors"].flip(0)
    torch.save(state, path)
    second = pictures_of(cfg)
    changed = [gid for gid in range(3) if first[gid, 0][0] != second[gid, 0][0]]
    assert changed == [0, 2]  # flipping three rows leaves the middle one
    other = factory("other")  # with the words of the first, and without adapters
    path = tmp_path / "other/train/model_final.pth"
    state = torch.load(path, weights_only=True)
    state["model"] = {name: 0 * value if "lora" in name else value for name, value in state["model"].items()}
    torch.save(state, path)
    third = pictures_of(other)
    assert all(first[key][0] != third[key][0] for key in first)


@pytest.mark.parametrize(
    ("key", "value", "changes"),
    [
        ("GEN.SEED", "7", lambda row, before: row["seed"] != before["seed"]),
        ("GEN.FORMAT", "jpg", lambda row, before: row["file"] == before["file"].replace(".png", ".jpg")),
        ("GEN.SWAP_PROB", "0.0", lambda row, _: not row["swapped"]),
        ("LPE.TEMPLATE", "<id>: {caption}", lambda row, _: row["prompt"] == f"<id>: {row['caption']}"),
    ],
)
def test_each_key_of_the_writing_has_its_effect(factory, key, value, changes):
    words = ("DIFFPERSON.GEN.SWAP_PROB", "1.0", "DIFFPERSON.GEN.PER_ID", "1", "DIFFPERSON.GEN.STEPS", "1")
    before = pictures_of(factory("before", *words))
    after = pictures_of(factory("after", *words, f"DIFFPERSON.{key}", value))
    assert all(changes(after[at][1], before[at][1]) for at in before)
    assert any(after[at] != before[at] for at in before)


def test_pictures_are_computed_in_the_format_of_its_key(factory):
    words = ("DIFFPERSON.GEN.PER_ID", "1", "DIFFPERSON.GEN.STEPS", "1", "TEST.AMP.ENABLED")
    plain, fp32, bf16 = (
        [picture for picture, _ in pictures_of(factory(name, *words, enabled, "SOLVER.AMP.DTYPE", dtype)).values()]
        for name, enabled, dtype in (("plain", "False", "bf16"), ("fp32", "True", "fp32"), ("bf16", "True", "bf16"))
    )
    assert plain == fp32 and all(map(operator.ne, bf16, fp32))
    with pytest.raises(ConfigError, match="mixed precision was False, not 'bf16'"):
        generate(factory("fp32", *words, "True", "SOLVER.AMP.DTYPE", "bf16"), Shard())


def test_the_share_of_replaced_clothes_is_that_of_its_key(factory):
    words = ("DIFFPERSON.GEN.SWAP_PROB", "1.0", "DIFFPERSON.GEN.PER_ID", "5", "DIFFPERSON.GEN.STEPS", "1")
    clothes = []
    for limit in ("0.0", "1.0"):
        rows = pictures_of(factory(f"limit{limit}", *words, "DIFFPERSON.GEN.MAX_IDENTITY_SWAPS", limit))
        clothes.append(sum(row["swapped"] == "upper" for _, row in rows.values()))
    assert clothes[0] == 0 < clothes[1]


@pytest.mark.parametrize(("merges", "caption_of_all"), [("True", 1), ("False", 2)])
def test_captions_of_a_person_are_merged_by_their_key(make_cfg, tmp_path, place, merges, caption_of_all):
    file = captions_file(place, tmp_path, a_red_top="a green jacket")
    words = ("DIFFPERSON.LPE.CAPTION_FILE", file, "DIFFPERSON.LPE.MERGE", merges)
    path = caption(make_cfg("OUTPUT_DIR", str(tmp_path / "f"), *words), Shard())
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["caption"] for row in found if row["gid"] == 0}) == caption_of_all


def test_a_model_of_each_person(factory, tmp_path):
    cfg = factory("each", "DIFFPERSON.GRANULARITY", "per_id")
    shutil.rmtree(tmp_path / "each/train")
    with pytest.raises(ConfigError, match=r"there is no .*train/00000/model_final.pth: run the stage train first"):
        generate(cfg, Shard())
    for gid in range(3):
        one = cfg.clone()
        one.defrost()
        one.DIFFPERSON.PERSON = gid
        checkpoint(one, tmp_path / f"each/train/{gid:05d}", seed=gid)
    assert generate(cfg, Shard()) == 9
    rows = pictures(cfg)
    assert len({row["checkpoint"] for _, row in rows.values()}) == 3
    shutil.copy(tmp_path / "each/train/00001/model_final.pth", tmp_path / "each/train/00002/model_final.pth")
    with pytest.raises(
        ConfigError, match=r"of person 2 in .* written by another model than .*00002/model_final.pth is"
    ):
        generate(cfg, Shard())
    assert {key: row for key, row in pictures(cfg).items() if key[0] == 2} == {
        key: row for key, row in rows.items() if key[0] == 2
    }


def test_people_with_few_images_are_left_out_with_a_sentence(factory, caplog):
    cfg = factory("few", "DIFFPERSON.MIN_IMAGES", "3")
    assert generate(cfg, Shard()) == 0
    assert "3 of 3 people have fewer than 3 training images and are not written" in caplog.text


def test_missing_captions_and_checkpoints_are_named(make_cfg, tmp_path):
    cfg = make_cfg("OUTPUT_DIR", str(tmp_path / "new"))
    with pytest.raises(ConfigError, match=r"train/model_final\.pth: run the stage train first"):
        generate(cfg, Shard())
    checkpoint(cfg, tmp_path / "new/train")
    with pytest.raises(ConfigError, match=r"captions\.jsonl: run the stage caption first"):
        generate(cfg, Shard())


def test_it_is_the_picture_of_diffusers(make_cfg):
    """Batched pictures are those of the plain pipeline, called for one picture with its prompt."""
    cfg = make_cfg("DIFFPERSON.IIR.MODE", "off")
    parts = DiffusionReID(cfg).eval()
    painter = Painter(
        text=parts.text, vae=parts.autoencoder.vae, unet=parts.denoiser.unet, schedule=parts.schedule, size=(64, 32),
        num_steps=3, guidance=5.0, batch_size=3,
    )  # fmt: skip
    plans = [PicturePlan(-1, number, f"a photo of a person, {number}", 10 + number, {}) for number in range(3)]
    found = painter.paint(plans)
    for plan, picture in zip(plans, found, strict=True):
        noise = torch.randn(1, 4, 32, 16, generator=torch.Generator().manual_seed(plan.seed))
        expected = painter.pipeline(
            plan.prompt, latents=noise, height=64, width=32, num_inference_steps=3, guidance_scale=5.0
        ).images[0]
        difference = np.asarray(picture).astype(int) - np.asarray(expected)
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("content", [b"[1]\n", b'{"gid": 0, "caption": "a', b"\xff\x00\xfe", b"{}\n"])
def test_damaged_captions_are_named_and_written_again(factory, content):
    cfg = factory()
    path = Path(cfg.OUTPUT_DIR) / "captions/captions.jsonl"
    whole = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(JournalError, match=r"captions.jsonl is damaged: line 1 .* run the stage caption again"):
        generate(cfg, Shard())
    caption(cfg, Shard())
    assert path.read_bytes() == whole


def test_captions_that_are_cut_off_between_lines_are_noticed(factory):
    cfg = factory()
    path = Path(cfg.OUTPUT_DIR) / "captions/captions.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(ConfigError, match=r"for each training image of 2 people \(the first is p1 of csv:.*run the"):
        generate(cfg, Shard())
