"""Reading a scheduler_config.json: betas and prediction type of a diffusion."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fastreid.modeling.diffusion.assets import AssetError, asset_folder, read_json
from fastreid.modeling.diffusion.option_error import OptionError
from fastreid.utils.logger import log_once
from fastreid.utils.suggest import explain_choice

logger = logging.getLogger(__name__)

FILE = "scheduler_config.json"
AUTO = "auto"
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
# The schedule of diffusions over vectors that have no assets (Nichol & Dhariwal 2021, as in unCLIP's prior).
COSINE: Mapping[str, Any] = MappingProxyType(
    {
        "_class_name": "DDPMScheduler",
        "beta_start": 0.0001,  # read by diffusers, without effect on this schedule
        "beta_end": 0.02,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "sample",
    }
)
# Diffusers' own default, which old files leave out.
_IMPLIED = "epsilon"


def read_scheduler(folder: str, *, key: str = "") -> dict[str, Any]:
    """Return the content of the scheduler_config.json of a folder.

    Args:
        folder: folder of a scheduler, or of a whole pipeline.
        key: config key that names the folder, for error messages.

    Raises:
        AssetError: the file is missing, damaged, or of a scheduler without a schedule of betas.
    """
    path = asset_folder(folder, "scheduler", FILE, key=key) / FILE
    config = read_json(path)
    check_scheduler(config, str(path))
    return config


def check_scheduler(config: dict[str, Any], where: str) -> None:
    """Check that a config is one of a diffusion with betas, not of flow matching or of sigmas (EDM, Karras).

    Args:
        config: content of scheduler_config.json.
        where: the file, for the error message.

    Raises:
        AssetError: it is not, or has a value that is impossible; the message says which.
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


def chosen_prediction_type(config: dict[str, Any], asked: str, key_of: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return what the network predicts, and log a warning if the assets say something else.

    Args:
        config: content of scheduler_config.json.
        asked: one of `PREDICTION_TYPES`, or "auto" for what the assets say.
        key_of: argument -> config key, for the message.

    Raises:
        OptionError: `asked` is something else.
    """
    said = config.get("prediction_type", _IMPLIED)
    if asked == AUTO:
        log_once(logger, logging.INFO, f"the assets' scheduler predicts {said}")
        return said
    if asked not in PREDICTION_TYPES:
        raise OptionError(explain_choice("prediction_type", asked, (AUTO, *PREDICTION_TYPES)), "prediction_type")
    if asked != said:
        logger.warning(
            "%s is %s, but %s of the assets says %s: weights that were trained for the one do not predict the other "
            "(random ones predict nothing yet)",
            key_of.get("prediction_type", "prediction_type"), asked, FILE, said,
        )  # fmt: skip
    return asked


def check_steps(
    config: dict[str, Any], num_timesteps: int, solver: str, key_of: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Check that the betas of the assets fit a number of steps and a solver, and log if they are spread anew.

    Args:
        config: content of scheduler_config.json.
        num_timesteps: T.
        solver: name of the solver.
        key_of: argument -> config key, for the message.

    Raises:
        OptionError: the assets list each beta and T is another number, or the solver cannot do what they ask for.
    """
    if (betas := config.get("trained_betas")) is not None and len(betas) != num_timesteps:
        raise OptionError(
            f"num_timesteps is {num_timesteps}, but {FILE} of the assets lists {len(betas)} betas (trained_betas), "
            f"which cannot be spread: set it to {len(betas)}",
            "num_timesteps",
        )
    if config.get("rescale_betas_zero_snr") and solver == "pndm":
        raise OptionError(
            f"solver pndm cannot rescale the betas to no signal at the end, as rescale_betas_zero_snr in {FILE} of the "
            "assets asks for: take ddpm, ddim or euler",
            "solver",
        )
    steps = config.get("num_train_timesteps", num_timesteps)
    if steps != num_timesteps:
        name = key_of.get("num_timesteps", "num_timesteps")
        logger.info("the assets' betas of %s steps are spread over %d (%s)", steps, num_timesteps, name)
