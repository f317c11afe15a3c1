"""The config keys of SD-ReID, with their defaults and ranges."""

from __future__ import annotations

from fastreid.config.method_config import Key, MethodConfig
from fastreid.config.ranges import (
    COUNT,
    FINITE,
    FLAG,
    LOOP,
    NAME,
    NAMES,
    NOT_NEGATIVE,
    SHARE,
    SHARE_ABOVE_0,
    TEXT,
    at_least,
    each,
    whole,
)
from fastreid.methods.sd_reid.release_config import RELEASE

_VDT = "the orthogonality loss is VDT's; SD-ReID does not train with it"
_UNREAD = "no code path of the release reads it"

KEYS = {
    # Train the view head (lambda times its cross-entropy).
    "MODEL.LOSSES.CE.VIEW_ID": Key(True, FLAG),
    "MODEL.LOSSES.CE.VIEW_OREG": Key(False, FLAG, refused=_VDT),
    # Weight of the view cross-entropy (lambda).
    "MODEL.LOSSES.CE.VIEW_LAMBDA": Key(1.0, NOT_NEGATIVE),
    # Views that cameras are grouped into (2: aerial, ground; AG-ReID v2 has 3).
    "MODEL.SDMODEL.VIEW_NUM": Key(2, COUNT),
    # Weight of the batch mean in the view centres: m <- MOMENTUM * mean(v) + (1 - MOMENTUM) * m.
    "MODEL.SDMODEL.MOMENTUM": Key(0.8, SHARE_ABOVE_0),
    # Length T of the diffusion.
    "MODEL.SDMODEL.TRAIN_STEP": Key(200, LOOP),
    # Chance per image that training replaces its condition by the learnt null condition.
    "MODEL.SDMODEL.U_COND_PERCENT": Key(0.2, SHARE),
    # Whether such an image also loses its control maps for encoder and decoder (in training, and in the
    # unconditional branch of guidance). The release keeps them (B4).
    "MODEL.SDMODEL.U_COND_DOWN_BLOCK_GUIDANCE": Key(False, FLAG),
    "MODEL.SDMODEL.U_COND_UP_BLOCK_GUIDANCE": Key(False, FLAG),
    # Null condition of the unconditional branch in sampling: "learnt" (the one of training), or "zeros" (B3).
    "MODEL.SDMODEL.NULL_CONDITION": Key("learnt", NAME),
    # What denoises: "unet" (of Stable Diffusion, as published), "mlp" or "transformer" (small networks on vectors that
    # need no assets; SCHEDULER_CONFIG.PRETRAINED_PATH "" is then a cosine schedule that predicts the clean sample).
    "MODEL.SDMODEL.DENOISER": Key("unet", NAME),
    "MODEL.SDMODEL.MLP_CONFIG.WIDTH": Key(1024, COUNT),
    "MODEL.SDMODEL.MLP_CONFIG.DEPTH": Key(3, NOT_NEGATIVE),
    "MODEL.SDMODEL.MLP_CONFIG.DROPOUT": Key(0.3, SHARE),
    "MODEL.SDMODEL.TRANSFORMER_CONFIG.DEPTH": Key(6, COUNT),
    "MODEL.SDMODEL.TRANSFORMER_CONFIG.HEADS": Key(12, COUNT),
    "MODEL.SDMODEL.TRANSFORMER_CONFIG.DROPOUT": Key(0.1, SHARE),
    # What is generated: "own" (the image's own feature under its own view, as released), "same_person_in_view" (the
    # feature of another image of that person in the requested view), "person_in_view" (the mean of that person's
    # features in the requested view, over the batch) or "person_in_view_of_all" (the same mean over the whole training
    # set, without the image itself and without augmentation).
    "MODEL.SDMODEL.TARGET": Key("same_person_in_view", NAME),
    # Diffuse identity vectors with zero mean and unit variance (by the running statistics of the BN neck), as Stable
    # Diffusion scales its latents. Without it (as released) people may differ by far less than the noise does: after
    # stage 1 of the quickstart their standard deviation is 0.04, and only their common mean is learnt.
    "MODEL.SDMODEL.STANDARDIZE_LATENT": Key(True, FLAG),
    # Diffuse identity vectors with zero mean and unit covariance instead, by statistics of the training images that are
    # taken before the first iteration; STANDARDIZE_LATENT has no effect then.
    "MODEL.SDMODEL.WHITEN_LATENT": Key(False, FLAG),
    # Use the view token of the image itself as one more identity condition.
    "MODEL.SDMODEL.OWN_VIEW_CONDITION": Key(False, FLAG),
    # Give the identity conditions zero mean and unit covariance, each block by itself, by statistics of the training
    # images that are taken before the first iteration. The release uses them as they are.
    "MODEL.SDMODEL.WHITEN_CONDITIONS": Key(True, FLAG),
    # Diffuse the residual of a ridge regression from the identity conditions to the mean vector of the person in the
    # requested view, which is fitted on the same images in closed form. For UNets that start from random weights.
    "MODEL.SDMODEL.LINEAR_MEAN": Key(False, FLAG),
    # Folder for the features of the frozen encoder, so that training decodes no image and runs no encoder. The only
    # augmentation can be mirroring then. "": off.
    "MODEL.SDMODEL.FEATURE_CACHE": Key("", TEXT, is_path=True),
    # Train the encoder together with the generator, by the losses of stage 1 and that of the generator.
    "MODEL.SDMODEL.JOINT_TRAINING": Key(False, FLAG),
    # Learning rate of such an encoder, as a share of SOLVER.BASE_LR (DiffReID: 5e-6 beside 5e-4).
    "MODEL.SDMODEL.ENCODER_LR_FACTOR": Key(0.01, NOT_NEGATIVE),
    # Learn mean and variance of the starting noise from the image's own vector; sampling starts from the mean.
    "MODEL.SDMODEL.LEARNT_NOISE": Key(False, FLAG),
    # Weight of the divergence of that noise from N(0, I).
    "MODEL.SDMODEL.LEARNT_NOISE_KL": Key(1.0, NOT_NEGATIVE),
    # Weights of cross-entropy over people and triplet loss on real and generated vectors together.
    "MODEL.SDMODEL.GENERATED_CE": Key(0.0, NOT_NEGATIVE),
    "MODEL.SDMODEL.GENERATED_TRIPLET": Key(0.0, NOT_NEGATIVE),
    # Chance per image that training conditions on its view's centre instead of its own view token; at
    # inference only centres exist (B5: the release never trains on them, 0.0).
    "MODEL.SDMODEL.VIEW_CENTRE_PERCENT": Key(0.5, SHARE),
    # What the network predicts: "auto" (what scheduler_config.json of the assets says), "epsilon", "v_prediction" or
    # "sample".
    "MODEL.SDMODEL.PREDICTION_TYPE": Key("auto", TEXT),
    # Where view control enters the UNet: "down_and_up" (as described) or "down" (what the release does, B2).
    "MODEL.SDMODEL.VIEW_CONTROL": Key("down_and_up", NAME),
    # Residual of the UNet's middle block: "zero", or "learnt" (linear in the view token, starts at zero).
    "MODEL.SDMODEL.MID_RESIDUAL": Key("zero", NAME),
    # Standard deviation of Gaussian noise put on stage 2's conditions in training, in units of the standard deviation
    # of each token, because stage 1 fits its training people better than others.
    "MODEL.SDMODEL.CONDITION_NOISE": Key(0.0, NOT_NEGATIVE),
    "MODEL.SDMODEL.SCHEDULER_CONFIG.NAME": Key("ddpm", NAME),
    "MODEL.SDMODEL.SCHEDULER_CONFIG.PRETRAINED_PATH": Key("", TEXT, is_path=True),
    # Draw t = (1 - u^3) T (large t more often) instead of uniformly.
    "MODEL.SDMODEL.SCHEDULER_CONFIG.CUBIC_SAMPLING": Key(True, FLAG),
    # "trailing" starts at t = T - 1, near pure noise; "leading" is the release's (B13).
    "MODEL.SDMODEL.SCHEDULER_CONFIG.TIMESTEP_SPACING": Key("trailing", NAME),
    "MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH": Key("", TEXT, is_path=True),
    # What trains: "cross_attention_kv" (the attentions chosen by the keys below), "lora" or "all".
    "MODEL.SDMODEL.UNET_CONFIG.TRAIN": Key("cross_attention_kv", NAME),
    "MODEL.SDMODEL.UNET_CONFIG.LORA_RANK": Key(8, COUNT),
    # Up-block attentions counted from the middle outwards, three per block; blocks without attention count.
    "MODEL.SDMODEL.UNET_CONFIG.TRAINABLE_BLOCK_IDX": Key(
        [11, 10, 9, 8, 7, 6, 5, 4, 3], each(whole(0), "a list of whole numbers, 0 or more")
    ),
    "MODEL.SDMODEL.UNET_CONFIG.TRAIN_SELF_ATTN_Q": Key(False, FLAG),
    "MODEL.SDMODEL.UNET_CONFIG.TRAIN_SELF_ATTN_K": Key(False, FLAG),
    "MODEL.SDMODEL.UNET_CONFIG.TRAIN_SELF_ATTN_V": Key(False, FLAG),
    "MODEL.SDMODEL.UNET_CONFIG.TRAIN_CROSS_ATTN_Q": Key(False, FLAG),
    "MODEL.SDMODEL.UNET_CONFIG.TRAIN_CROSS_ATTN_K": Key(True, FLAG),
    "MODEL.SDMODEL.UNET_CONFIG.TRAIN_CROSS_ATTN_V": Key(True, FLAG),
    # 0: derived (identity conditions + 1). Other values are compared with it; the same holds for the next two keys.
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.N_CTX": Key(0, NOT_NEGATIVE),
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.CTX_DIM": Key(0, NOT_NEGATIVE),
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.OUT_CHANNELS": Key([], each(whole(1), "a list of whole numbers above 0")),
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.DEPTH": Key(1, COUNT),
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.HEADS": Key(12, COUNT),
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.POSE_QUERY": Key(False, FLAG, refused=_UNREAD),
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.IN_CHANNEL": Key(320, COUNT, refused=_UNREAD),
    "TEST.SDMODEL.NUM_INFERENCE_STEPS": Key(50, COUNT),
    # Guidance: "uc_full", "full", "down_full", "uc_down_full" or "inverse" (modeling/diffusion/guidance.py).
    "TEST.SDMODEL.INVERSE_TYPE": Key("uc_full", NAME),
    "TEST.SDMODEL.FULL_GUIDANCE_SCALE": Key(2.0, FINITE),
    "TEST.SDMODEL.DOWN_BLOCK_GUIDANCE_SCALE": Key(2.0, FINITE),
    # Starting noise: "shared" (one draw per view for all images), "image" (from the image's content),
    # "name" (from its file name), "zeros", or "fresh" (from a running generator, as released: an image's
    # feature then depends on its batch, B10 and B11).
    "TEST.SDMODEL.NOISE": Key("shared", NAME),
    # -1: MODEL.SEED.
    "TEST.SDMODEL.NOISE_SEED": Key(-1, at_least(-1, " (-1: MODEL.SEED)")),
    # Samples averaged into each generated feature.
    "TEST.SDMODEL.NUM_DRAWS": Key(1, COUNT),
    # Views to generate: 0 is every view; 2 is the release, which left out the third (B6).
    "TEST.SDMODEL.NUM_VIEWS": Key(0, NOT_NEGATIVE),
    # Steps in which encoder control acts: "every", or "fading" (halves per step, as released, B1).
    "TEST.SDMODEL.CONTROL_STEPS": Key("every", NAME),
    # Rows per UNet call (images x views x guidance branches); 0: all at once.
    "TEST.SDMODEL.MICRO_BATCH": Key(0, NOT_NEGATIVE),
    # Parts of the descriptor, in this order: "person", "latent" (the person vector as it is diffused, without
    # generation) and "generated".
    "TEST.SDMODEL.PARTS": Key(("person", "generated"), NAMES),
    # "concat" (as released) or "weighted": every part to unit length, the generated ones scaled so that the
    # cosine of two descriptors is (person + GENERATED_WEIGHT * mean over views) / (1 + GENERATED_WEIGHT).
    "TEST.SDMODEL.FUSION": Key("weighted", NAME),
    "TEST.SDMODEL.GENERATED_WEIGHT": Key(0.6, NOT_NEGATIVE),
    # The weight of the generated feature of each view, instead of GENERATED_WEIGHT / V for all of them; []: the latter.
    # tools/choose_view_weights.py chooses them on people for validation.
    "TEST.SDMODEL.VIEW_WEIGHTS": Key([], each(NOT_NEGATIVE, "a list of numbers, 0 or more")),
    # Space in which generated features are compared: "feature" (that of identity vectors) or "latent" (as they are
    # diffused, so whitened with WHITEN_LATENT; GENERATED_NECK has no effect then).
    "TEST.SDMODEL.GENERATED_SPACE": Key("feature", NAME),
    # Weight of the part "latent", as GENERATED_WEIGHT is of the part "generated".
    "TEST.SDMODEL.LATENT_WEIGHT": Key(1.0, NOT_NEGATIVE),
    # Pass generated features through stage 1's BN neck, as the person feature is. Without it the mean that all
    # people share dominates their cosines, and GENERATED_WEIGHT means little.
    "TEST.SDMODEL.GENERATED_NECK": Key(True, FLAG),
}

CONFIG = MethodConfig(
    models=("SDReIDStage1", "SDReIDStage2"), keys=KEYS, loss_models=("SDReIDStage1", "SDReIDStage2"), origin=RELEASE
)
