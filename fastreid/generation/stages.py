"""The stages that write pictures, from the config: the reference set, and the pictures of people."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastreid.config import CfgNode, ConfigError, image_size, resolve_device, with_values
from fastreid.data.picture_grid import picture_grid, spread_evenly
from fastreid.generation.caption import captions_file
from fastreid.generation.few_steps import CONSISTENCY
from fastreid.generation.painter import Painter
from fastreid.generation.people import Identity, digest_of, enough_images, people_of
from fastreid.generation.plans import PicturePlan, Swaps, plan_of, reference_plans
from fastreid.generation.records import NAMES, refuse_other_captions, refuse_other_settings, refuse_other_training
from fastreid.generation.rows import MERGED_ROW, PICTURE_ROW, REFERENCE_ROW, Row, read_rows
from fastreid.generation.shards import Shard
from fastreid.generation.stage import SETTINGS, StageFolder
from fastreid.generation.write import SHEET, PictureFolder, captions_by_person
from fastreid.methods.diffusion_reid.build import frozen_parts, timesteps_in
from fastreid.methods.diffusion_reid.generator import DiffusionReID
from fastreid.methods.diffusion_reid.grammar import Grammar
from fastreid.methods.diffusion_reid.reference import INDEX
from fastreid.modeling.amp import evaluation_autocast
from fastreid.modeling.diffusion import Schedule, option_keys
from fastreid.modeling.model import build_model, evaluation_config_of
from fastreid.utils.checkpoint import load_weights
from fastreid.utils.files import save_picture
from fastreid.utils.manifest import digest, mark_of, sha256_of
from fastreid.utils.seal import checksum_of

logger = logging.getLogger(__name__)

REFERENCE, TRAIN, PICTURES = "reference", "train", "pictures"
WEIGHTS = "model_final.pth"
SD_PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
_KEYS = {"num_steps": "DIFFPERSON.GEN.STEPS", "solver": "DIFFPERSON.GEN.SOLVER"}


def write_reference(cfg: CfgNode, shard: Shard) -> Path | None:
    """Write the pictures of a shard of the reference set; the last shard that ends writes its list.

    The model is that of the files, without any training.

    Args:
        cfg: the config.
        shard: the part of the pictures.

    Returns:
        The list; None if other shards are not finished, or if DIFFPERSON.DI.ENABLED is False.

    Raises:
        ConfigError: a key has an impossible value, or the folder was written with other settings.
        AssetError: a part of Stable Diffusion is missing or damaged.
    """
    keys = cfg.DIFFPERSON
    if not keys.DI.ENABLED:
        logger.info("no reference set is written: DIFFPERSON.DI.ENABLED is False")
        return None
    plans = _reference_plans(cfg)
    stage = StageFolder(reference_folder(cfg), REFERENCE_ROW)
    stage.begin(_reference_settings(cfg, plans))
    own = shard.of(plans)
    pictures = PictureFolder(stage, keys.GEN.FORMAT, _row_facts(cfg))
    with stage.writer(shard.name) as writer:
        pictures.remove_leftovers(own, shard)
        if missing := pictures.missing(own):
            parts = frozen_parts(cfg)
            painter = _painter(cfg, parts["text"], parts["autoencoder"].vae, parts["denoiser"].unet, None)
            pictures.write(painter, missing, writer, keys.GEN.BATCH)
    rows = stage.journal.rows()
    if len(rows) < len(plans):
        logger.info("%d of %d reference pictures are written; other shards are not finished", len(rows), len(plans))
        return None
    listed = [{name: row[name] for name in ("file", "prompt", "attributes")} for row in rows]
    path = stage.write_json(INDEX, {"pictures": listed, "settings": {"weights": keys.SD.WEIGHTS}})
    sheet = pictures.draw_sheet(rows, f"reference set: {len(rows)} pictures of the model before its training")
    logger.info("the reference set of %d pictures is in %s; some are on %s", len(rows), path.parent, sheet)
    return path


def reference_folder(cfg: CfgNode) -> Path:
    """Return the folder of the reference set."""
    return Path(cfg.DIFFPERSON.DI.FOLDER or Path(cfg.OUTPUT_DIR) / REFERENCE)


def refuse_other_reference(cfg: CfgNode) -> None:
    """Check that the reference set, if there is one, was written by the model of this config and with its prompts.

    Raises:
        ConfigError: it was not; the message lists the differences.
    """
    if not (reference_folder(cfg) / SETTINGS).is_file():
        return
    settings = _reference_settings(cfg, _reference_plans(cfg))
    compared = ("content of the weights", "size", "pictures", "prompts")
    refuse_other_settings(reference_folder(cfg), {name: settings[name] for name in compared if name in settings})


def _reference_plans(cfg: CfgNode) -> list[PicturePlan]:
    di, grammar = cfg.DIFFPERSON.DI, Grammar.read(cfg.DIFFPERSON.GRAMMAR)
    return reference_plans(grammar, di.ARS_SIZE, cfg.DIFFPERSON.GEN.SEED, is_fine_grained=di.FINE_GRAINED)


def _reference_settings(cfg: CfgNode, plans: Sequence[PicturePlan]) -> dict[str, Any]:
    return {**_common_settings(cfg), "pictures": len(plans), "prompts": [plan.prompt for plan in plans]}


def generate(cfg: CfgNode, shard: Shard, *, per_person: int | None = None, only: Sequence[int] | None = None) -> int:
    """Write the pictures of the people of a shard.

    Args:
        cfg: the config.
        shard: the part of the people.
        per_person: pictures of each person; default: DIFFPERSON.GEN.PER_ID.
        only: numbers of people; default: all.

    Returns:
        The number of pictures that were written.

    Raises:
        ConfigError: captions or checkpoints are missing, or the folder was written with other settings.
        WeightsError: a checkpoint is damaged or of another model.
    """
    keys, everyone = cfg.DIFFPERSON, people_of(cfg)
    people, few = enough_images(everyone, keys.MIN_IMAGES)
    if few:
        shown = ", ".join(f"{who.person} of {who.source} ({len(who.images)})" for who in few[:4])
        logger.warning(
            "%d of %d people have fewer than %d training images and are not written (DIFFPERSON.MIN_IMAGES): %s",
            len(few), len(everyone), keys.MIN_IMAGES, shown,
        )  # fmt: skip
    stage = StageFolder(Path(cfg.OUTPUT_DIR) / PICTURES, PICTURE_ROW)
    stage.begin(_settings(cfg, everyone))
    chosen = [who for who in shard.of(people) if only is None or who.gid in only]
    plans = _plans(cfg, chosen, per_person or keys.GEN.PER_ID)
    pictures = PictureFolder(stage, keys.GEN.FORMAT, _row_facts(cfg))
    count = 0
    with stage.writer(shard.name) as writer:
        pictures.remove_leftovers([plan for of_person in plans.values() for plan in of_person], shard)
        for painter, missing in _jobs(cfg, len(everyone), chosen, plans, pictures):
            count += pictures.write(painter, missing, writer, keys.GEN.BATCH)
    rows = stage.journal.rows()
    sheet = pictures.draw_sheet(rows, f"{len(rows)} pictures of {len({row['gid'] for row in rows})} people")
    logger.info("%d pictures are in %s, %d of them new; some are on %s", len(rows), stage.folder, count, sheet)
    there = Counter(row["gid"] for row in rows)
    if left := [who for who in people if there[who.gid] < keys.GEN.PER_ID]:
        logger.info("%d of %d people do not have all pictures; other shards are not finished", len(left), len(people))
    return count


def draw_samples(cfg: CfgNode, folder: Path, gid: int | None = None) -> Path:
    """Draw one picture of some people with a trained generator, as many as are written together.

    Args:
        cfg: the config of the stages.
        folder: the folder of the training, which gets sheet.jpg.
        gid: number of the person of a model of one person.
    """
    everyone = people_of(cfg)
    chosen = spread_evenly([who for who in everyone if gid in (None, who.gid)], cfg.DIFFPERSON.GEN.BATCH)
    plans = [plan for of_person in _plans(cfg, chosen, 1).values() for plan in of_person]
    pictures = _trained_painter(cfg, len(everyone), gid).paint(plans)
    with tempfile.TemporaryDirectory() as place:
        paths = [f"{place}/{plan.gid}.png" for plan in plans]
        for path, picture in zip(paths, pictures, strict=True):
            picture.save(path)
        sheet = picture_grid("one picture of some people", paths, [who.person for who in chosen])
    save_picture(sheet, folder / SHEET)
    return folder / SHEET


def _plans(cfg: CfgNode, people: Sequence[Identity], count: int) -> dict[int, list[PicturePlan]]:
    keys = cfg.DIFFPERSON
    grammar = Grammar.read(keys.GRAMMAR)
    captions = _captions(cfg, people)
    make = functools.partial(
        plan_of,
        grammar=grammar,
        template=keys.LPE.TEMPLATE,
        has_words=keys.IIR.MODE != "off",
        swaps=Swaps(keys.GEN.SWAP_PROB, keys.GEN.MAX_IDENTITY_SWAPS),
        seed=keys.GEN.SEED,
    )
    return {who.gid: [make(who, number, captions.get(who.gid, [])) for number in range(count)] for who in people}


def _captions(cfg: CfgNode, people: Sequence[Identity]) -> dict[int, list[str]]:
    """Return the captions of each person's images; none without a captioner."""
    if cfg.DIFFPERSON.LPE.CAPTIONER == "none":
        return {}
    captions = captions_by_person(_caption_rows(cfg))
    if few := [who for who in people if len(captions.get(who.gid, [])) != len(who.images)]:
        raise ConfigError(
            f"{captions_file(cfg)} does not have a caption for each training image of {len(few)} people (the first is "
            f"{few[0].person} of {few[0].source}): run the stage caption again"
        )
    return captions


def _caption_rows(cfg: CfgNode) -> Iterator[Row]:
    return read_rows(captions_file(cfg), MERGED_ROW, "run the stage caption again, which writes it again")


def _jobs(
    cfg: CfgNode,
    num_people: int,
    people: Sequence[Identity],
    plans: dict[int, list[PicturePlan]],
    pictures: PictureFolder,
) -> Iterator[tuple[Painter, list[PicturePlan]]]:
    """Yield painters with the plans of the pictures that are not there."""
    if cfg.DIFFPERSON.GRANULARITY == "shared":
        if missing := pictures.missing(list(itertools.chain.from_iterable(plans[who.gid] for who in people))):
            yield _trained_painter(cfg, num_people), missing
        return
    used = {row["gid"]: row["checkpoint"] for row in pictures.rows if "checkpoint" in row}
    for who in people:
        missing = pictures.missing(plans[who.gid])
        weights = train_folder(cfg, who.gid) / WEIGHTS
        if not missing and not weights.is_file():
            continue
        checkpoint = checksum_of(checkpoint_of(cfg, who.gid))
        if used.get(who.gid, checkpoint) != checkpoint:
            raise ConfigError(
                f"pictures of person {who.gid} in {pictures.stage.folder} were written by another model than {weights} "
                "is now. Nothing was changed: put the model back, name another OUTPUT_DIR, or delete the folder"
            )
        if missing:
            facts = {"checkpoint": checkpoint}
            of_person = [replace(plan, facts={**plan.facts, **facts}) for plan in missing]
            yield _trained_painter(cfg, num_people, who.gid), of_person


def train_folder(cfg: CfgNode, gid: int | None = None) -> Path:
    """Return OUTPUT_DIR of the training of all people, or of one.

    Args:
        cfg: the config of the stages.
        gid: number of the person of a model of DIFFPERSON.GRANULARITY per_id.
    """
    folder = Path(cfg.OUTPUT_DIR) / TRAIN
    return folder if gid is None else folder / f"{gid:05d}"


def checkpoint_of(cfg: CfgNode, gid: int | None = None) -> Path:
    """Return the checkpoint of the training of all people, or of one.

    Raises:
        ConfigError: it is not there.
    """
    path = train_folder(cfg, gid) / WEIGHTS
    if not path.is_file():
        raise ConfigError(f"there is no {path}: run the stage train first")
    return path


def _trained_painter(cfg: CfgNode, num_people: int, gid: int | None = None) -> Painter:
    checkpoint = checkpoint_of(cfg, gid)
    own = cfg if gid is None else with_values(cfg, {"DIFFPERSON.PERSON": gid})
    model: Any = build_model(evaluation_config_of(own), num_people)
    assert isinstance(model, DiffusionReID)
    refuse_other_training(cfg, checkpoint.parent)
    if cfg.DIFFPERSON.LPE.CAPTIONER != "none":
        refuse_other_captions(checkpoint, captions_file(cfg))
    load_weights(model, str(checkpoint), to_evaluate=True)
    model.eval()
    vectors_of = None if model.words is None else model.vectors_of
    return _painter(cfg, model.text, model.autoencoder.vae, model.denoiser.unet, vectors_of)


def _painter(cfg: CfgNode, text: Any, vae: Any, unet: Any, vectors_of: Any) -> Painter:
    gen, folder = cfg.DIFFPERSON.GEN, cfg.DIFFPERSON.SD.WEIGHTS
    device = torch.device(resolve_device(cfg.MODEL.DEVICE))
    consistency = gen.SOLVER == CONSISTENCY
    if consistency and not gen.LORA:
        logger.warning(
            "DIFFPERSON.GEN.SOLVER lcm is for an LCM-LoRA (DIFFPERSON.GEN.LORA), or for weights that were made for it"
        )
    solver = "ddim" if consistency else gen.SOLVER
    with option_keys(_KEYS):
        schedule = Schedule.from_pretrained(
            folder, solver=solver, num_timesteps=timesteps_in(folder), key="DIFFPERSON.SD.WEIGHTS", key_of=_KEYS
        )
        schedule.reverse(gen.STEPS, "cpu")  # raises if the number of steps is impossible
        return Painter(
            text=text.to(device),
            vae=vae.to(device).eval(),
            unet=unet.to(device).eval(),
            schedule=schedule,
            size=image_size(cfg),
            num_steps=gen.STEPS,
            guidance=gen.GUIDANCE,
            batch_size=gen.BATCH,
            vectors_of=vectors_of,
            lora=gen.LORA,
            consistency=consistency,
            autocast=evaluation_autocast(cfg),
        )


def _mixed_precision(cfg: CfgNode) -> bool | str:
    """Whether pictures are computed in mixed precision, or the format of SOLVER.AMP.DTYPE that they are computed in."""
    asked = cfg.SOLVER.AMP.DTYPE
    return cfg.TEST.AMP.ENABLED and {"auto": True, "fp32": False}.get(asked, asked)


def _row_facts(cfg: CfgNode) -> dict[str, Any]:
    return {"steps": cfg.DIFFPERSON.GEN.STEPS, "guidance": cfg.DIFFPERSON.GEN.GUIDANCE}


def _common_settings(cfg: CfgNode) -> dict[str, Any]:
    keys = cfg.DIFFPERSON
    content = mark_of(keys.SD.WEIGHTS, SD_PARTS)
    return {
        "weights": os.path.realpath(keys.SD.WEIGHTS),
        **({"content of the weights": content} if content else {}),
        "size": list(image_size(cfg)),
        "solver": keys.GEN.SOLVER,
        "steps": keys.GEN.STEPS,
        "guidance": keys.GEN.GUIDANCE,
        "seed": keys.GEN.SEED,
        "format": keys.GEN.FORMAT,
        "grammar": sha256_of(keys.GRAMMAR),
        "mixed precision": _mixed_precision(cfg),
        **({"LoRA": sha256_of(keys.GEN.LORA)} if keys.GEN.LORA else {}),
    }


def _settings(cfg: CfgNode, people: Sequence[Identity]) -> dict[str, Any]:
    """Return what decides the pictures: values of keys, and checksums of what other stages have written."""
    keys = cfg.DIFFPERSON
    trained = sha256_of(checkpoint_of(cfg)) if keys.GRANULARITY == "shared" else "one for each person"
    captions: Iterable[str] = []
    if keys.LPE.CAPTIONER != "none":
        captions = (f"{row['gid']} {row['caption']}" for row in _caption_rows(cfg))
    return {**picture_settings(cfg, people), "checkpoint": trained, "captions": digest(captions)}


def picture_settings(cfg: CfgNode, people: Sequence[Identity]) -> dict[str, Any]:
    """Return the settings that decide the pictures of the stage `generate`, beside what earlier stages have written.

    Args:
        cfg: the config.
        people: the people of the config.
    """
    keys = cfg.DIFFPERSON
    return {
        **_common_settings(cfg),
        "granularity": keys.GRANULARITY,
        "template": keys.LPE.TEMPLATE,
        "swaps": keys.GEN.SWAP_PROB,
        "swaps of the person": keys.GEN.MAX_IDENTITY_SWAPS,
        "identity words": keys.IIR.MODE,
        "data sets": list(cfg.DATASETS.NAMES),
        "people": len(people),
        NAMES: digest_of(people),
    }
