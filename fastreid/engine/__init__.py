"""Trainers, hooks, checkpoints of runs, launching of processes and the command line."""

from fastreid.engine import hooks
from fastreid.engine.defaults import DefaultTrainer
from fastreid.engine.launch import launch
from fastreid.engine.predictor import DefaultPredictor, build_for_evaluation
from fastreid.engine.setup import default_argument_parser, default_setup
from fastreid.engine.train_loop import SimpleTrainer
from fastreid.engine.trainer_base import HookBase, TrainerBase

__all__ = [
    "DefaultPredictor",
    "DefaultTrainer",
    "HookBase",
    "SimpleTrainer",
    "TrainerBase",
    "build_for_evaluation",
    "default_argument_parser",
    "default_setup",
    "hooks",
    "launch",
]
