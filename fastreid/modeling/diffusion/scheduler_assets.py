"""What a scheduler_config.json says: betas and prediction type of a diffusion, or of something else."""

from __future__ import annotations

import logging
from typing import Any

from fastreid.config import CfgNode, ConfigError
from fastreid.modeling.diffusion.assets import AssetError, asset_folder, read_json
from fastreid.utils.suggest import explain_choice

logger = logging.getLogger(__name__)

FILE = "scheduler_config.json"
KEY = "MODEL.SDMODEL.SCHEDULER_CONFIG.PRETRAINED_PATH"
AUTO = "auto"
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
# Diffusers' own default, which old files leave out.
_IMPLIED = "epsilon"


def read_scheduler(folder: str) -> dict[str, Any]:
    """The scheduler_config.json of a folder.

    Raises:
        AssetError: it is missing, damaged, or of a scheduler without a schedule of betas.
    """
    path = asset_folder(folder, "scheduler", FILE, KEY) / FILE
    config = read_json(path)
    check_scheduler(config, str(path))
    return config


def check_scheduler(config: dict[str, Any], where: str) -> None:
    """Refuse what is no diffusion with betas: flow matching, sigmas alone (EDM, Karras, consistency), nothing.

    Raises:
        AssetError: says what it is, or which value cannot be.
    """
    kind = config.get("_class_name", "a scheduler without a name")
    of_flow = "FlowMatch" in str(kind) or config.get("use_flow_sigmas") or "flow" in str(config.get("prediction_type"))
    if of_flow:
        raise AssetError(f"{where} is of flow matching ({kind}): features are diffused by a schedule of betas (DDPM)")
    betas = config.get("trained_betas")
    if betas is None and not {"beta_start", "beta_end", "beta_schedule"} <= config.keys():
        raise AssetError(
            f"{where} ({kind}) has no schedule of betas: expected beta_start, beta_end and beta_schedule as in the "
            "scheduler folder of Stable Diffusion"
        )
    if betas is not None:
        numbers = betas if isinstance(betas, list) and betas else [None]
    else:
        numbers = [config["beta_start"], config["beta_end"]]
        if config["beta_schedule"] not in BETA_SCHEDULES:
            raise AssetError(
                f"{where}: {explain_choice('beta_schedule', str(config['beta_schedule']), BETA_SCHEDULES)}"
            )
    if not all(isinstance(b, int | float) and not isinstance(b, bool) and 0 < b < 1 for b in numbers):
        raise AssetError(f"{where}: betas must be numbers between 0 and 1, it has {str(numbers)[:80]}")
    said = config.get("prediction_type", _IMPLIED)
    if said not in PREDICTION_TYPES:
        raise AssetError(f"{where}: {explain_choice('prediction_type', str(said), PREDICTION_TYPES)}")


def prediction_type(config: dict[str, Any], keys: CfgNode) -> str:
    """`MODEL.SDMODEL.PREDICTION_TYPE`; "auto" is what the assets say. A difference is logged.

    Raises:
        ConfigError: the key has no legal value.
    """
    asked, said = keys.PREDICTION_TYPE, config.get("prediction_type", _IMPLIED)
    if asked == AUTO:
        logger.info("the assets' scheduler predicts %s", said)
        return said
    if asked not in PREDICTION_TYPES:
        raise ConfigError(explain_choice("MODEL.SDMODEL.PREDICTION_TYPE", asked, (AUTO, *PREDICTION_TYPES)))
    if asked != said:
        logger.warning(
            "MODEL.SDMODEL.PREDICTION_TYPE is %s, but %s of the assets says %s: weights that were trained for the one "
            "do not predict the other (random ones predict nothing yet)", asked, FILE, said,
        )  # fmt: skip
    return asked


def check_steps(config: dict[str, Any], num_timesteps: int, solver: str) -> None:
    """Log that the betas are spread over another number of steps; refuse where they cannot be.

    Raises:
        ConfigError: the assets list each beta, and MODEL.SDMODEL.TRAIN_STEP is another number; a solver that cannot do
            what the assets ask for.
    """
    if (betas := config.get("trained_betas")) is not None and len(betas) != num_timesteps:
        raise ConfigError(
            f"MODEL.SDMODEL.TRAIN_STEP is {num_timesteps}, but {FILE} of the assets lists {len(betas)} betas "
            f"(trained_betas), which cannot be spread: set it to {len(betas)}"
        )
    if config.get("rescale_betas_zero_snr") and solver == "pndm":
        raise ConfigError(
            "MODEL.SDMODEL.SCHEDULER_CONFIG.NAME pndm cannot rescale the betas to no signal at the end, as "
            f"rescale_betas_zero_snr in {FILE} of the assets asks for: take ddpm, ddim or euler"
        )
    steps = config.get("num_train_timesteps", num_timesteps)
    if steps != num_timesteps:
        logger.info("the assets' betas of %s steps are spread over %d (MODEL.SDMODEL.TRAIN_STEP)", steps, num_timesteps)
