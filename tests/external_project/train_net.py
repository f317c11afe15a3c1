#!/usr/bin/env python
# encoding: utf-8
import logging
import sys

sys.path.append(".")

from partreid import add_partreid_config

from fastreid.config import get_cfg
from fastreid.engine import DefaultTrainer, default_argument_parser, default_setup, hooks, launch
from fastreid.evaluation import ReidEvaluator
from fastreid.utils import comm
from fastreid.utils.checkpoint import Checkpointer

logger = logging.getLogger("fastreid.partreid")


class CountingHook(hooks.HookBase):
    def before_train(self):
        self.steps = 0

    def after_step(self):
        self.steps += 1

    def after_train(self):
        logger.info("counted %d steps in %d epochs", self.steps, self.trainer.max_epoch)


class ThresholdEvaluator(ReidEvaluator):
    def __init__(self, cfg, num_query, output_dir=None):
        super().__init__(cfg, num_query, output_dir)
        self.thres = cfg.TEST.THRES
        self.positive = 0

    def process(self, inputs, outputs):
        super().process(inputs, outputs)
        self.positive += int((outputs > self.thres).sum())

    def evaluate(self):
        results = super().evaluate()
        if comm.is_main_process():
            results["positive"] = self.positive
        return results


class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_dir=None):
        data_loader, num_query = cls.build_test_loader(cfg, dataset_name)
        return data_loader, ThresholdEvaluator(cfg, num_query, output_dir)

    def build_hooks(self):
        ret = super().build_hooks()
        ret.append(CountingHook())
        return ret


def setup(args):
    cfg = get_cfg()
    add_partreid_config(cfg)
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def main(args):
    cfg = setup(args)

    if args.eval_only:
        cfg.defrost()
        cfg.MODEL.BACKBONE.PRETRAIN = False
        model = Trainer.build_model(cfg)

        Checkpointer(model).load(cfg.MODEL.WEIGHTS)  # load trained model

        res = Trainer.test(cfg, model)
        return res

    trainer = Trainer(cfg)

    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    print("Command Line Args:", args)
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
