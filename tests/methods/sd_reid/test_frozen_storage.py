"""The frozen UNet in the format of autocast: the same training, checkpoints and features, with half the memory."""

import pytest
import torch
from torch import nn

from fastreid.modeling.amp import store_frozen_assets
from fastreid.solver.ema import WeightAverage
from tests.modeling import toys

BF16 = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bf16", "TEST.AMP.ENABLED", True)
UNET = "MODEL.SDMODEL.UNET_CONFIG"
LORA = (f"{UNET}.TRAIN", "lora")
ATTENTION = (f"{UNET}.TRAIN", "cross_attention_kv", f"{UNET}.TRAINABLE_BLOCK_IDX", [3, 4])


def denoiser_types(model):
    """Types of the weights of linear and convolutional layers, of those that train and of the others."""
    layers = [part for part in model.denoiser.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    weights = [parameter for layer in layers for parameter in layer.parameters(recurse=False)]
    return [{weight.dtype for weight in weights if weight.requires_grad is trains} for trains in (True, False)]


def trained(model):
    """Two steps of training under autocast; returns the losses, the checkpoint, the average and the optimiser state."""
    torch.manual_seed(3)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    average = WeightAverage(model, momentum=0.5, warmup=False)
    average.restart()
    losses = []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            loss = sum(model.train()(toys.batch()).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update()
        losses.append(loss.item())
    state = model.checkpoint_state_dict()
    return losses, state, average.in_place_of(state), optimizer.state_dict()


@pytest.mark.parametrize("trains", [ATTENTION, LORA])
def test_a_training_has_the_same_bits(make_stage2, assets, trains):
    model = make_stage2(*trains)
    store_frozen_assets(toys.stage2_cfg(assets, *BF16, *trains), model, "cpu")
    assert denoiser_types(model) == [{torch.float32}, {torch.bfloat16}]
    torch.testing.assert_close(trained(model), trained(make_stage2(*trains)), rtol=0, atol=0)


def test_a_float32_evaluation_needs_the_exact_weights(make_stage2, assets):
    model = make_stage2(*LORA)
    store_frozen_assets(toys.stage2_cfg(assets, *BF16, "TEST.AMP.ENABLED", False), model, "cpu")
    assert denoiser_types(model) == [{torch.float32}, {torch.float32}]


def test_an_evaluation_has_the_same_bits(make_stage2, assets):
    cfg = toys.stage2_cfg(assets, *BF16, "SOLVER.AMP.ENABLED", False)
    descriptors = []
    for stores in (False, True):
        model = make_stage2(*ATTENTION).eval()
        if stores:
            store_frozen_assets(cfg, model, "cpu", only_to_evaluate=True)
            assert denoiser_types(model)[1] == {torch.bfloat16}
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            descriptors.append(model(toys.batch()))
    assert torch.equal(*descriptors)
