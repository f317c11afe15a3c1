from fastreid.config import CfgNode as CN


def add_partreid_config(cfg):
    _C = cfg
    _C.MODEL.HEADS.NUM_PARTS = 2
    _C.MODEL.LOSSES.PARTS = CN({"SCALE": 1.0})
    _C.TEST.THRES = 0.5
