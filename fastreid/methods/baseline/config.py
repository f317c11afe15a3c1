"""Baseline and MGN have no keys of their own; they read those of backbones, heads and losses."""

from fastreid.config.method_config import MethodConfig

_MODELS = ("Baseline", "MGN")
CONFIG = MethodConfig(models=_MODELS, loss_models=_MODELS)
