from torch import nn

from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.losses import cross_entropy_loss, triplet_loss
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY, Baseline


@BACKBONE_REGISTRY.register()
def build_tiny_backbone(cfg):
    dim = cfg.MODEL.BACKBONE.FEAT_DIM
    return nn.Sequential(
        nn.Conv2d(3, dim, 5, 4, 2, bias=False), nn.BatchNorm2d(dim), nn.ReLU(inplace=True), nn.Conv2d(dim, dim, 3, 2, 1)
    )


@META_ARCH_REGISTRY.register()
class PartBaseline(Baseline):
    @classmethod
    def from_config(cls, cfg):
        base_res = Baseline.from_config(cfg)
        base_res["loss_kwargs"].update({"parts": {"scale": cfg.MODEL.LOSSES.PARTS.SCALE}})
        return base_res

    def losses(self, outputs, gt_labels):
        loss_dict = {}
        loss_names = self.loss_kwargs["loss_names"]
        if "CrossEntropyLoss" in loss_names:
            ce_kwargs = self.loss_kwargs.get("ce")
            loss_dict["loss_cls"] = cross_entropy_loss(
                outputs["cls_outputs"], gt_labels, ce_kwargs.get("eps"), ce_kwargs.get("alpha")
            ) * ce_kwargs.get("scale")
        if "PartLoss" in loss_names:
            tri_kwargs = self.loss_kwargs.get("tri")
            for i, part in enumerate(outputs["parts"].unbind(dim=1)):
                loss_dict["loss_part%d" % i] = triplet_loss(
                    part,
                    gt_labels,
                    tri_kwargs.get("margin"),
                    tri_kwargs.get("norm_feat"),
                    tri_kwargs.get("hard_mining"),
                ) * self.loss_kwargs.get("parts").get("scale")
        return loss_dict
