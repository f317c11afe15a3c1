"""The config keys of DCAC, with their defaults and ranges."""

from __future__ import annotations

from fastreid.config.method_config import Key, MethodConfig
from fastreid.config.ranges import COUNT, FLAG, LOOP, NAMES, NOT_NEGATIVE, POSITIVE, SHARE, TEXT, one_of

SOURCES = ("fc", "pcl", "fc+pcl", "feature")
BOTTLENECKS = ("identity", "silu", "bn", "bn_silu", "net")

KEYS = {
    # Standard deviation of the classifier's initial weights.
    "DCAC.CLASSIFIER_STD": Key(0.001, NOT_NEGATIVE),
    # Times that a batch passes the BN neck. The release has 2, one for the logits and one for the prototypes, so that
    # the running statistics move twice.
    "DCAC.NECK_PASSES": Key(1, one_of(1, 2)),
    # Weight of the contrastive loss over prototypes of all people; 0 turns it off.
    "MODEL.LOSSES.PCL.SCALE": Key(1.0, NOT_NEGATIVE),
    "MODEL.LOSSES.PCL.TEMPERATURE": Key(0.01, POSITIVE),
    # Weight of the old prototype: m <- MOMENTUM * m + (1 - MOMENTUM) * z, then unit length.
    "MODEL.LOSSES.PCL.MOMENTUM": Key(0.2, SHARE),
    # Which features of a batch move a prototype: "hard" (the one that is most unlike it) or "all" (one after another).
    "MODEL.LOSSES.PCL.UPDATE": Key("hard", one_of("hard", "all")),
    # Epochs after which the prototypes are computed anew from all training images.
    "MODEL.LOSSES.PCL.REINIT_PERIOD": Key(1, COUNT),
    # Weight of the diffusion loss; 0 trains without a diffusion model.
    "MODEL.LOSSES.DIFF.SCALE": Key(1.0, NOT_NEGATIVE),
    # Weights of the prompts in the condition: "fc" (probabilities of the classifier), "pcl" (of the prototypes),
    # "fc+pcl" (their mean), or "feature" (the retrieval feature, which a table maps to the condition).
    "DCAC.COND.SOURCE": Key("fc", one_of(*SOURCES)),
    # The prompt of the true person instead: nothing flows back to the re-identification model.
    "DCAC.COND.HARD_LABEL": Key(False, FLAG),
    # Temperature of the classifier's probabilities.
    "DCAC.COND.TAU": Key(1.0, POSITIVE),
    # Standard deviation of the initial prompts.
    "DCAC.COND.INIT_STD": Key(1.0, NOT_NEGATIVE),
    # What the condition passes through: "identity", "silu", "bn", "bn_silu" or "net" (two linear layers).
    "DCAC.COND.BOTTLENECK": Key("identity", one_of(*BOTTLENECKS)),
    # Cut the gradient from the condition to the re-identification model.
    "DCAC.COND.DETACH": Key(False, FLAG),
    # Folder of Stable Diffusion in the format of diffusers, with unet/, vae/ and scheduler/.
    "DCAC.SD.WEIGHTS": Key("", TEXT, is_path=True),
    # What trains in the UNet: "lora", "all" or "freeze" (nothing).
    "DCAC.SD.FINETUNE": Key("lora", one_of("lora", "all", "freeze")),
    # Side of the square, un-augmented image that is diffused, in pixels.
    "DCAC.SD.IMAGE_SIZE": Key(128, COUNT),
    # Diffuse a random square of the image at twice this height instead of the whole image.
    "DCAC.SD.RANDOM_CROP": Key(False, FLAG),
    # Draw latents from the autoencoder's posterior in every step; False takes its mean.
    "DCAC.SD.SAMPLE_POSTERIOR": Key(True, FLAG),
    # Folder for the latents of the training images, which are then encoded once instead of in every step; "": off.
    "DCAC.SD.LATENT_CACHE": Key("", TEXT, is_path=True),
    # Length T of the diffusion; the betas are those of the folder.
    "DCAC.SD.TIMESTEPS": Key(1000, LOOP),
    # Compute the cross-attention to the one condition token in a closed form: the same result with less work.
    "DCAC.SD.SINGLE_TOKEN": Key(True, FLAG),
    # Compute the UNet's activations again in the backward pass instead of storing them.
    "DCAC.SD.CHECKPOINTING": Key(False, FLAG),
    "DCAC.LORA.RANK": Key(8, COUNT),
    # The update is (ALPHA / RANK) B A.
    "DCAC.LORA.ALPHA": Key(1.0, POSITIVE),
    # Layers with an adapter: projections of "attn1" and "attn2" (letters of qkvo), "ff.in" and "ff.out".
    "DCAC.LORA.TARGETS": Key(("attn1.qkvo", "attn2.qkvo", "ff.in"), NAMES),
    # Add the random frozen biases that the release puts into the query, key and value projections by mistake.
    "DCAC.LORA.RANDOM_BIAS": Key(False, FLAG),
    # Factor of the learning rate of the prompts.
    "SOLVER.PROMPT_LR_FACTOR": Key(1.0, NOT_NEGATIVE),
    # Retrieval feature: "after" the BN neck or "before" it.
    "TEST.NECK_FEAT": Key("after", one_of("after", "before")),
}

CONFIG = MethodConfig(models=("DCAC",), keys=KEYS, loss_models=("DCAC",))
