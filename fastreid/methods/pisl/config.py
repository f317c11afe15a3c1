"""The config keys of PISL, with their defaults and ranges; docs/pisl.md explains the options."""

from __future__ import annotations

from fastreid.config.method_config import Key, MethodConfig
from fastreid.config.ranges import COUNT, FLAG, LOOP, NOT_NEGATIVE, POSITIVE, SHARE, between, each, one_of, whole

SOURCES = ("denoised", "noisy", "init", "stripes")
SCORES = ("mmd_inv", "mmd_exp", "mmd_raw", "jaccard")

KEYS = {
    # Parts of a person, P; 0 trains with the global feature alone.
    "PISL.NUM_PARTS": Key(3, NOT_NEGATIVE),
    # Where the patches come from: "denoised" (theta_0 as the denoiser predicts it), "noisy" (the noisy theta, as
    # released), "init" (the localisation network) or "stripes" (fixed stripes, as PPLR has them).
    "PISL.SDM.PATCH_SOURCE": Key("denoised", one_of(*SOURCES)),
    # Channels of the localisation network's convolution; the published 4096 have 77.6 million parameters.
    "PISL.SDM.LOC_CHANNELS": Key(4096, COUNT),
    # Width of its hidden layer.
    "PISL.SDM.HIDDEN": Key(512, COUNT),
    # First patches: "strips" (one below the other) or "released" (all rows of a matrix are equal).
    "PISL.SDM.INIT": Key("strips", one_of("strips", "released")),
    # In training, pass the patch features through the BN neck of the global feature first, as released.
    "PISL.SDM.SHARED_BN": Key(False, FLAG),
    # What a patch has outside of the map: "zeros", "border" or "reflection".
    "PISL.SDM.PADDING": Key("zeros", one_of("zeros", "border", "reflection")),
    # Length T of the diffusion over theta, and s of its cosine schedule.
    "PISL.DIFF.TIMESTEPS": Key(1000, LOOP),
    "PISL.DIFF.COSINE_S": Key(0.008, POSITIVE),
    # What the denoiser predicts: "x0" (theta_0) or "eps" (the noise).
    "PISL.DIFF.PREDICT": Key("x0", one_of("x0", "eps")),
    # Give theta_t to the denoiser; the release does not.
    "PISL.DIFF.USE_THETA_INPUT": Key(True, FLAG),
    # Width of the time embedding, and of the denoiser's hidden layers.
    "PISL.DIFF.TIME_DIM": Key(512, between(4, 4096)),
    "PISL.DIFF.HIDDEN": Key((1024, 512), each(whole(1), "two widths", 2)),
    # What is diffused: "plain" (SCALE * theta) or "box" (SCALE * (2 theta - 1), clamped on the way back, as released).
    "PISL.DIFF.SIGNAL": Key("plain", one_of("plain", "box")),
    "PISL.DIFF.SCALE": Key(1.0, POSITIVE),
    # Draw a time step for each image; the release draws one for the batch.
    "PISL.DIFF.T_PER_SAMPLE": Key(True, FLAG),
    # Sampling before an epoch: "ddim", or "released", whose steps never form theta_0.
    "PISL.DIFF.SAMPLER": Key("ddim", one_of("ddim", "released")),
    "PISL.DIFF.SAMPLE_STEPS": Key(50, LOOP),
    # Noise of the steps: 0 (none) to 1 (as DDPM).
    "PISL.DIFF.ETA": Key(1.0, SHARE),
    # Of the released sampler: replace rows after each step, which mixes the images of a batch.
    "PISL.DIFF.RENEWAL": Key(False, FLAG),
    # Of the released sampler: return the mean of the snapshots at every tenth of the steps.
    "PISL.DIFF.ENSEMBLE": Key(False, FLAG),
    # Scale the sampler's condition to unit length, as released; training does not.
    "PISL.DIFF.SAMPLE_NORMALIZED": Key(False, FLAG),
    # Noise of the sampler: "image" (depends on the pixels and SEED), "name", "shared" or "zeros".
    "PISL.DIFF.NOISE": Key("image", one_of("image", "name", "shared", "zeros")),
    "PISL.DIFF.SEED": Key(0, NOT_NEGATIVE),
    # The semantic-controlled diffusion loss: its weight, and what the denoiser is pulled to: "step" (theta_{t-1}) or
    # "eps" (the noise).
    "PISL.SCD.WEIGHT": Key(0.1, NOT_NEGATIVE),
    "PISL.SCD.TARGET": Key("step", one_of("step", "eps")),
    # Weight of the distance to the localisation network's theta_0, of its cosine part, and of the contrast of parts.
    "PISL.SCD.LAMBDA_CONSIST": Key(0.5, NOT_NEGATIVE),
    "PISL.SCD.COS_WEIGHT": Key(0.1, NOT_NEGATIVE),
    "PISL.SCD.LAMBDA_CONTRAST": Key(0.3, NOT_NEGATIVE),
    "PISL.SCD.TEMP": Key(0.07, POSITIVE),
    # Which theta is compared with theta_0: "denoised" or "noisy" (as released).
    "PISL.SCD.CONSIST_OF": Key("denoised", one_of("denoised", "noisy")),
    # Run backbone and localisation network twice per step, as released; it only moves their BN statistics twice.
    "PISL.SCD.SECOND_PASS": Key(False, FLAG),
    # Consistency of a part with the whole: neighbours, and how their distances become a score. "mmd_inv" is
    # 1 - MMD^2 / 2k, "mmd_exp" is exp(-MMD^2), "mmd_raw" is MMD^2 / 2k (as released, so that equal neighbourhoods
    # score 0), "jaccard" is the share of common neighbours (PPLR).
    "PISL.PSC.KNN": Key(20, COUNT),
    "PISL.PSC.SCORE": Key("mmd_inv", one_of(*SCORES)),
    # Weight of the pseudo-label in the refined label; the rest is the mean prediction of the parts.
    "PISL.PSC.REFINE": Key(0.5, SHARE),
    # Epoch, counted from 0, from which scores smooth the labels of parts; before it their smoothing is CE.EPSILON.
    "PISL.PSC.SMOOTH_START": Key(5, NOT_NEGATIVE),
    "PISL.CE.EPSILON": Key(0.1, SHARE),
    "PISL.TRI.WEIGHT": Key(1.0, NOT_NEGATIVE),
    # Margin of the triplets; 0 is the soft margin.
    "PISL.TRI.MARGIN": Key(0.0, NOT_NEGATIVE),
    # Contrast of features with the proxies of their cluster in other cameras.
    "PISL.CAM.ENABLED": Key(True, FLAG),
    "PISL.CAM.WEIGHT": Key(0.5, NOT_NEGATIVE),
    "PISL.CAM.TEMP": Key(0.07, POSITIVE),
    # Nearest proxies of other clusters that are negatives.
    "PISL.CAM.NUM_HARD": Key(50, COUNT),
    # Fill the negatives with proxies of the own cluster if there are fewer, as released.
    "PISL.CAM.FILL_WITH_OWN": Key(False, FLAG),
    # Standard deviation of the classifier's first weights; labelling overwrites those in use.
    "PISL.CLASSIFIER_STD": Key(0.001, NOT_NEGATIVE),
}

CONFIG = MethodConfig(models=("PISL",), keys=KEYS)
