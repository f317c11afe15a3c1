"""Non-local and squeeze-and-excitation blocks against loops over positions."""

import torch

from fastreid.layers import NonLocal, SqueezeExcite


def test_a_non_local_block_is_the_mean_over_all_pairs_of_places():
    torch.manual_seed(0)
    block, maps = NonLocal(4, "BN", inner_channels=3).eval(), torch.randn(2, 4, 3, 2)
    assert torch.equal(block(maps), maps)  # its last norm starts at zero
    torch.nn.init.normal_(block.W[1].weight)
    theta, phi, g = (getattr(block, name)(maps).flatten(2) for name in ("theta", "phi", "g"))
    expected = torch.zeros(2, 3, 6)
    for i in range(6):
        for j in range(6):
            expected[:, :, i] += (theta[:, :, i] * phi[:, :, j]).sum(1, keepdim=True) * g[:, :, j] / 6
    torch.testing.assert_close(block(maps), maps + block.W(expected.view(2, 3, 3, 2)))


def test_the_published_width_of_a_non_local_block_is_one():
    shapes = {name: list(value.shape) for name, value in NonLocal(8, "BN").state_dict().items() if value.ndim == 4}
    ends = {"g.weight": [1, 8, 1, 1], "theta.weight": [1, 8, 1, 1], "phi.weight": [1, 8, 1, 1]}
    assert shapes == ends | {"W.0.weight": [8, 1, 1, 1]}


def test_channels_are_weighed_by_a_number_between_0_and_1():
    torch.manual_seed(0)
    block, maps = SqueezeExcite(32), torch.rand(2, 32, 3, 2)
    weights = (block(maps) / maps).flatten(2)
    torch.testing.assert_close(weights, weights[..., :1].expand_as(weights))
    hidden = (maps.mean((2, 3)) @ block.fc[0].weight.T).relu() @ block.fc[2].weight.T
    torch.testing.assert_close(weights[..., 0], hidden.sigmoid())
    assert set(block.state_dict()) == {"fc.0.weight", "fc.2.weight"}
