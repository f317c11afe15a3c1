"""What PISL makes of its parts: the losses of a step, and the rows and proxies of each part."""

import torch
import torch.nn.functional as F

from fastreid.labeling.centroids import camera_proxies, centroids
from fastreid.methods.pisl.losses import label_smoothed_loss
from fastreid.methods.pisl.patches import pooled_stripes
from fastreid.modeling.losses import triplet_loss
from tests.methods.pisl.conftest import CLUSTERS
from tests.methods.pisl.test_pisl import labelling_of


def test_losses_are_weighted_and_those_of_parts_are_means(make_pisl, batch):
    keys = ("PISL.TRI.WEIGHT", 0.7, "PISL.CE.EPSILON", 0.2, "PISL.CAM.WEIGHT", 0.9)
    model = make_pisl(*keys, "PISL.SDM.PATCH_SOURCE", "stripes").train()
    losses, targets, cameras = model(batch), batch["targets"], batch["camids"]
    maps = model.backbone(model.preprocess_image(batch))
    neck = model.heads.embed(maps)[1]
    parts = model.part_heads.embed(pooled_stripes(maps, 3))
    torch.testing.assert_close(losses["loss_triplet"], 0.7 * triplet_loss(neck, targets, 0.0, False, True))
    logits = model.part_heads.logits(parts, CLUSTERS)
    torch.testing.assert_close(losses["loss_part"], label_smoothed_loss(logits, targets, 0.2))
    views = [neck, *parts.unbind(1)]
    found = [model._camera_contrast(view, targets, cameras, model.state.proxies, at) for at, view in enumerate(views)]
    torch.testing.assert_close(losses["loss_camera"], 0.9 * (found[0] + sum(found[1:]) / 3))


def test_each_part_has_the_rows_and_proxies_of_its_own_features(make_pisl, batch):
    model = make_pisl("PISL.SDM.PATCH_SOURCE", "stripes", "PISL.PSC.KNN", 3)
    labelling = labelling_of(model, batch)
    model.epoch_tasks()[0]._take(labelling)
    dim = model.heads.weight.shape[1]
    parts = labelling.features[:, dim:].unflatten(1, (3, -1))
    for part in range(3):
        unit = F.normalize(parts[:, part], dim=1)
        torch.testing.assert_close(
            model.part_heads.classifiers[part, :CLUSTERS].detach(), centroids(unit, labelling.labels)
        )
        proxies, clusters, cameras = camera_proxies(unit, labelling.labels, labelling.cameras)
        torch.testing.assert_close(model.state.proxies.features[1 + part], proxies)
        assert torch.equal(model.state.proxies.clusters, clusters) and torch.equal(model.state.proxies.cameras, cameras)
