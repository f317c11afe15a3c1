"""The config keys of Diffusion-ReID: its model, and the stages that write, filter and export pictures."""

from __future__ import annotations

from fastreid.config.method_config import Key, MethodConfig
from fastreid.config.ranges import (
    COUNT,
    FLAG,
    NAME,
    NAMES,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SHARE_BELOW_1,
    TEXT,
    at_least,
    one_of,
)
from fastreid.methods.diffusion_reid.export_config import KEYS as EXPORT_KEYS
from fastreid.methods.diffusion_reid.filter_config import KEYS as FILTER_KEYS

SOLVERS = ("ddim", "dpm++", "euler", "pndm", "lcm")

_MODEL = {
    # Folder of Stable Diffusion in the format of diffusers, with unet/, vae/, scheduler/, tokenizer/, text_encoder/.
    "SD.WEIGHTS": Key("", TEXT, is_path=True),
    # Folder for the latents of the training images, which are then encoded once instead of in every step; "": off.
    "SD.LATENT_CACHE": Key("", TEXT, is_path=True),
    # Compute the UNet's activations again in the backward pass instead of storing them.
    "SD.CHECKPOINTING": Key(False, FLAG),
    # YAML file with the grammar of descriptions: slots and their phrases.
    "GRAMMAR": Key("configs/grammars/photographs.yml", TEXT, is_path=True),
    # The prompt of a training image: <id> is the person's identity word, {caption} the caption of the image.
    "LPE.TEMPLATE": Key("a photo of a <id> person, {caption}", TEXT),
    # Where captions come from: "file", "blip2", "image-to-text" (another model of transformers) or "none".
    "LPE.CAPTIONER": Key("blip2", NAME),
    # Captions for "file": JSON lines {"image": PATH, "caption": TEXT}.
    "LPE.CAPTION_FILE": Key("", TEXT, is_path=True),
    # Folder of the captioning model in the format of transformers.
    "LPE.MODEL": Key("", TEXT, is_path=True),
    # The text that captions of "blip2" continue.
    "LPE.PREFIX": Key("a photo of a person wearing", TEXT),
    # Most tokens of a caption.
    "LPE.MAX_TOKENS": Key(40, COUNT),
    # Images that are captioned together.
    "LPE.BATCH": Key(8, COUNT),
    # Give each caption the phrases that most captions of the person have, in the slots that belong to a person.
    "LPE.MERGE": Key(True, FLAG),
    # The identity word: "encoder" (a network makes it from features of the person's images), "table" (free vectors of
    # each person: textual inversion) or "off" (prompts have captions only).
    "IIR.MODE": Key("encoder", one_of("encoder", "table", "off")),
    # Number of vectors of an identity word.
    "IIR.WORDS": Key(1, COUNT),
    # Width of the encoder between its linear layers.
    "IIR.HIDDEN": Key(1024, COUNT),
    # Features that the encoder reads: "reid" (a model of this library), "clip" (CLIP's image encoder) or "clip+reid".
    "IIR.INPUT": Key("clip+reid", one_of("clip+reid", "clip", "reid")),
    # Checkpoint of the re-identification model.
    "IIR.REID": Key("", TEXT, is_path=True),
    # Folder of CLIP's image encoder in the format of transformers.
    "IIR.CLIP": Key("", TEXT, is_path=True),
    # Weight of the mean absolute value of the vectors.
    "IIR.REG": Key(0.01, NOT_NEGATIVE),
    # Weight of 1 - cos between the text encoder's state at the identity word, mapped by a linear layer, and the
    # person's mean re-identification feature; 0 turns it off.
    "IIR.ID_CONSIST": Key(0.0, NOT_NEGATIVE),
    # Diversity Injection: train on a reference set that the model wrote before its training, too.
    "DI.ENABLED": Key(True, FLAG),
    # Pictures of the reference set.
    "DI.ARS_SIZE": Key(200, COUNT),
    # Lambda, the weight of its loss.
    "DI.PRIOR_WEIGHT": Key(1.0, NOT_NEGATIVE),
    # Each reference picture keeps its own prompt; False gives all the same prompt, as DreamBooth does.
    "DI.FINE_GRAINED": Key(True, FLAG),
    # Folder of the reference set; "": the folder `reference` of the stage.
    "DI.FOLDER": Key("", TEXT, is_path=True),
    # What trains in the UNet: "lora", "full", or "words" (nothing: the identity words alone).
    "TUNE.MODE": Key("lora", one_of("lora", "full", "words")),
    # Rank of the adapters.
    "TUNE.RANK": Key(16, COUNT),
    # The update is (ALPHA / RANK) B A; 0 stands for RANK.
    "TUNE.ALPHA": Key(0.0, NOT_NEGATIVE),
    # Layers with an adapter, as DCAC.LORA.TARGETS.
    "TUNE.TARGETS": Key(("attn1.qkvo", "attn2.qkvo"), NAMES),
    # Pivotal tuning: share of the epochs in which the identity words train alone; the UNet trains in the rest, alone.
    # 0 trains both together.
    "TUNE.PIVOT": Key(0.0, SHARE_BELOW_1),
    # "shared" (one model of all people) or "per_id" (one model for each person).
    "GRANULARITY": Key("shared", one_of("shared", "per_id")),
    # The person that a model of "per_id" is trained on, which the stage sets; -1 for all.
    "PERSON": Key(-1, at_least(-1)),
    # Share of the prompts that are empty in training, which guidance needs.
    "TRAIN.COND_DROP": Key(0.1, SHARE),
    # Min-SNR weighting of the loss (Hang et al., ICCV 2023): its gamma; 0 turns it off.
    "TRAIN.SNR_GAMMA": Key(0.0, NOT_NEGATIVE),
}
_STAGES = {
    # People with fewer training images are not written.
    "MIN_IMAGES": Key(2, COUNT),
    # Pictures of each person.
    "GEN.PER_ID": Key(200, COUNT),
    # Solver: "ddim", "dpm++", "euler", "pndm", or "lcm" (latent consistency, with weights for it in GEN.LORA).
    "GEN.SOLVER": Key("ddim", one_of(*SOLVERS)),
    # File of LoRA weights of diffusers or kohya that are added while pictures are written, such as LCM-LoRA; "": none.
    "GEN.LORA": Key("", TEXT, is_path=True),
    # Steps of the solver.
    "GEN.STEPS": Key(50, COUNT),
    # Scale of classifier-free guidance; 1 or less uses none.
    "GEN.GUIDANCE": Key(7.5, NOT_NEGATIVE),
    # Pictures that are written together; the results do not depend on it, except for rounding.
    "GEN.BATCH": Key(8, COUNT),
    # Share of the pictures in whose caption one phrase is replaced.
    "GEN.SWAP_PROB": Key(0.5, SHARE),
    # Greatest share of a person's pictures in which it may be a phrase of the person, such as the upper clothes.
    "GEN.MAX_IDENTITY_SWAPS": Key(0.1, SHARE),
    # Seed of prompts and noise.
    "GEN.SEED": Key(0, NOT_NEGATIVE),
    # Format of the pictures: "png" or "jpg".
    "GEN.FORMAT": Key("png", one_of("png", "jpg")),
}
_CARD = {
    # A network that took no part, for the figures of the data card: a checkpoint of this library. Without one the card
    # has fewer figures.
    "CARD.MODEL": Key("", TEXT, is_path=True),
    # Instead of it a model of timm, such as one of ImageNet.
    "CARD.TIMM_NAME": Key("", TEXT),
    # The file of its weights.
    "CARD.TIMM_WEIGHTS": Key("", TEXT, is_path=True),
    # Weights of the Inception network of torchmetrics, for FID and KID; "" leaves them out.
    "CARD.INCEPTION": Key("", TEXT, is_path=True),
    # results.json of a model that was trained on the exported pictures alone, for the card; run `export` again.
    "CARD.RESULTS": Key("", TEXT, is_path=True),
    # Most pictures that the figures are computed from, spread evenly over the people.
    "CARD.PICTURES": Key(20000, COUNT),
}

CONFIG = MethodConfig(
    models=("DiffusionReID",),
    keys={
        **{f"DIFFPERSON.{name}": key for name, key in {**_MODEL, **_STAGES, **_CARD}.items()},
        **FILTER_KEYS,
        **EXPORT_KEYS,
        # Factor of the learning rate of the identity words.
        "SOLVER.WORDS_LR_FACTOR": Key(1.0, POSITIVE),
    },
)
