"""The head on vectors, and what it shares with heads on maps."""

import pytest
import torch
from torch import nn

from fastreid.config import ConfigError
from fastreid.layers.sync_batch_norm import SyncBatchNorm
from fastreid.modeling.heads import Head, VectorHead
from fastreid.utils.errors import ArgumentError
from tests.modeling.heads.test_embedding_head import FEAT, batch, head_of


def test_on_a_map_of_one_place_both_heads_compute_the_same():
    on_maps, on_vectors = head_of(WITH_BNNECK=True, POOL_LAYER="Identity"), VectorHead(FEAT, 5)
    assert isinstance(on_maps, Head) and isinstance(on_vectors, Head)
    on_vectors.load_state_dict(
        {
            **{f"bottleneck.{name}": value for name, value in on_maps.bottleneck[0].state_dict().items()},
            "classifier.weight": on_maps.weight,
        }
    )
    maps, people = batch()
    vectors = maps[:, :, 0, 0]
    outputs, (neck, logits) = on_maps.train()(vectors[..., None, None], people), on_vectors.train()(vectors)
    torch.testing.assert_close(logits, outputs["cls_outputs"])
    torch.testing.assert_close(on_vectors.eval().neck(vectors), on_maps.eval()(vectors[..., None, None]))
    assert neck.shape == (8, FEAT)


@pytest.mark.parametrize(("norm", "kind"), [("BN", nn.BatchNorm1d), ("syncBN", SyncBatchNorm)])
def test_norms_on_vectors(norm, kind):
    head = VectorHead(4, 2, norm=norm)
    assert type(head.bottleneck) is kind and not head.bottleneck.bias.requires_grad
    assert set(head.state_dict()) == {
        *(f"bottleneck.{name}" for name in nn.BatchNorm1d(4).state_dict()),
        "classifier.weight",
    }


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="unknown norm on vectors 'GN'.*BN, syncBN"):
        VectorHead(4, 2, norm="GN")
    with pytest.raises(ArgumentError, match="at least one class"):
        VectorHead(4, 0)
    with pytest.raises(ConfigError, match="unknown MODEL.HEADS.NECK_FEAT 'behind'"):
        VectorHead(4, 2, neck_feat="behind")


@pytest.mark.parametrize(
    ("seen", "neck_feat", "trained"),
    [
        ({"cls_outputs"}, "before", {"bottleneck.weight", "classifier.weight"}),
        ({"features"}, "before", set()),
        ({"features"}, "after", {"bottleneck.weight"}),
        (set(), "after", set()),
    ],
)
def test_what_no_loss_reaches_is_frozen(seen, neck_feat, trained):
    head = VectorHead(4, 2, neck_feat=neck_feat)
    head.freeze_unused(seen)
    assert {name for name, parameter in head.named_parameters() if parameter.requires_grad} == trained
