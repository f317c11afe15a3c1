import torch
from fastreid.config import configurable
from fastreid.modeling.heads import REID_HEADS_REGISTRY, EmbeddingHead


@REID_HEADS_REGISTRY.register()
class PartHead(EmbeddingHead):
    @configurable
    def __init__(self, *, num_parts, **kwargs):
        super().__init__(**kwargs)
        self.num_parts = num_parts

    @classmethod
    def from_config(cls, cfg):
        ret = super().from_config(cfg)
        ret["num_parts"] = cfg.MODEL.HEADS.NUM_PARTS
        return ret

    def forward(self, features, targets=None):
        parts = [part.mean(dim=(2, 3)) for part in torch.chunk(features, self.num_parts, dim=2)]
        outputs = super().forward(features, targets)
        if not self.training:
            return torch.cat([outputs, *parts], dim=1)
        outputs["parts"] = torch.stack(parts, dim=1)
        return outputs
