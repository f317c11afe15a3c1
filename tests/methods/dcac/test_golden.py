"""The parts of DCAC against numbers of the release's own code (tests/golden)."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastreid.config import get_cfg
from fastreid.evaluation.rank import evaluate_rank
from fastreid.methods.dcac.condition import IdentityCondition
from fastreid.modeling.diffusion import Schedule
from fastreid.modeling.diffusion.adapters import add_lora
from fastreid.modeling.heads import VectorHead
from fastreid.modeling.losses import cross_entropy_loss
from fastreid.modeling.prototypes import PrototypeMemory
from fastreid.solver import build_lr_scheduler
from tests.golden_values import Golden

golden = Golden("dcac")
check = golden.check
SD15_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def memory_of(bank, temperature=0.01, update="hard"):
    memory = PrototypeMemory(*bank.shape, temperature=temperature, momentum=0.2, update=update)
    memory.class_prototypes.copy_(bank)
    return memory


def test_contrastive_loss_its_gradient_and_the_update():
    raw = golden("mem/z_raw").requires_grad_()
    memory, targets = memory_of(golden("mem/bank_before")), golden("mem/targets").long()
    features = F.normalize(raw)
    loss = memory(features, targets)
    memory.update(features, targets)  # before the backward pass, which must use the earlier prototypes
    loss.backward()
    check(loss, "mem/hard/loss")
    check(raw.grad, "mem/hard/grad_z_raw")
    check(memory.class_prototypes, "mem/hard/bank_after")


def test_prototypes_of_an_epoch():
    memory = memory_of(torch.zeros(5, 8))
    memory.rebuild(golden("centroid/features"), golden("centroid/labels").long())
    check(memory.class_prototypes, "centroid/bank")


def test_label_smoothing():
    logits = golden("ce/logits").requires_grad_()
    loss = cross_entropy_loss(logits, golden("ce/targets").long(), eps=0.1 * 6 / 7)  # as `dcac_parts` translates it
    loss.backward()
    check(loss, "ce/loss")
    check(logits.grad, "ce/grad")


def head_of():
    head = VectorHead(8, 5)
    with torch.no_grad():
        head.classifier.weight.copy_(golden("cond/fc_weight"))
        head.bottleneck.weight.copy_(golden("cond/bn_weight"))
    head.bottleneck.running_mean.copy_(golden("cond/bn_mean"))
    head.bottleneck.running_var.copy_(golden("cond/bn_var"))
    return head


@pytest.mark.parametrize("variant", ["fc", "pcl", "feature", "hard"])
def test_conditions_and_their_gradients(variant):
    head, raw = head_of(), golden("cond/x_raw").requires_grad_()
    source = "fc" if variant == "hard" else variant
    condition = IdentityCondition(
        source=source, num_classes=5, feature_dim=8, dim=16, tau=float(golden("cond/tau")), hard_label=variant == "hard"
    )
    with torch.no_grad():
        condition.prompts.copy_(golden("cond/prompts_feature" if variant == "feature" else "cond/prompts"))
    neck, logits = head(raw)
    features, targets = F.normalize(neck), golden("cond/targets").long()
    memory = memory_of(golden("cond/memory"))
    if variant != "hard":
        check(condition.weights(logits, features, memory), f"cond/{variant}/probs")
    c = condition(logits, features, targets, memory)
    assert c.shape == (6, 1, 16)
    (c[:, 0] * golden("cond/G")).sum().backward()
    check(c[:, 0], f"cond/{variant}/c")
    check(condition.prompts.grad, f"cond/{variant}/grad_prompts")
    weight = head.classifier.weight
    check(torch.zeros(6, 8) if raw.grad is None else raw.grad, f"cond/{variant}/grad_x")
    check(torch.zeros(5, 8) if weight.grad is None else weight.grad, f"cond/{variant}/grad_fc")


def test_neck_in_two_passes_and_the_test_feature():
    head, raw = head_of(), golden("cond/x_raw")
    check(head(raw).logits, "bn/logits_train")
    check(F.normalize(head.neck(raw)), "bn/z_train")
    neck = head.bottleneck
    check(neck.running_mean, "bn/mean_after_step")
    check(neck.running_var, "bn/var_after_step")
    assert int(neck.num_batches_tracked) == int(golden("bn/num_batches_tracked"))
    head.eval()
    check(head.neck(raw), "bn/test_after_bn")
    check(F.normalize(head.neck(raw)), "bn/test_final")


def test_adapter():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.to_q = nn.Linear(6, 4)

        def add_adapter(self, config):
            from peft import inject_adapter_in_model

            inject_adapter_in_model(config, self)

    block = Block()
    with torch.no_grad():
        block.to_q.weight.copy_(golden("lora/W"))
        block.to_q.bias.copy_(golden("lora/bias"))
    add_lora(block, int(golden("lora/r")), ["to_q"], alpha=float(golden("lora/alpha")))
    down, up = block.to_q.lora_A["default"].weight, block.to_q.lora_B["default"].weight
    assert not up.any()  # the adapter starts as zero
    with torch.no_grad():
        down.copy_(golden("lora/A"))
        up.copy_(golden("lora/B"))
    out = block.to_q(golden("lora/x"))
    (out * golden("lora/G")).sum().backward()
    check(out, "lora/out_train")
    check(down.grad, "lora/grad_A")
    check(up.grad, "lora/grad_B")


def test_schedule_and_noise():
    schedule = Schedule(
        SD15_BETAS,
        solver="ddpm",
        num_timesteps=1000,
        prediction_type="epsilon",
        timestep_spacing="trailing",
        cubic=False,
    )
    clean, noise, times = golden("q/x0"), golden("q/eps"), golden("q/t").long()
    check(schedule.add_noise(clean, noise, times), "q/xt")
    ones, every = torch.ones(1000, 1), torch.arange(1000)
    check(schedule.add_noise(ones, ones * 0, every)[:, 0], "sched/sqrt_alphas_cumprod")
    check(schedule.add_noise(ones * 0, ones, every)[:, 0], "sched/sqrt_one_minus_alphas_cumprod")
    assert torch.equal(schedule.target(clean, noise, times), noise)


def test_learning_rates():
    cfg = get_cfg()
    cfg.merge_from_list(
        ["SOLVER.BASE_LR", 5e-6, "SOLVER.SCHED", "EpochWarmupMultiStepLR", "SOLVER.WARMUP_EPOCHS", 10,
         "SOLVER.WARMUP_FACTOR", 0.1, "SOLVER.WARMUP_ITERS", 0, "SOLVER.STEPS", [30, 50], "SOLVER.GAMMA", 0.1]
    )  # fmt: skip
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=5e-6)
    schedule = build_lr_scheduler(cfg, optimizer, 7)
    rates = torch.tensor([schedule.lr_at(7 * epoch + 3) for epoch in range(60)])
    torch.testing.assert_close(rates, golden("lr/epoch_1_to_60"), rtol=1e-5, atol=0)


def test_figures():
    queries, gallery = F.normalize(golden("eval/qf")), F.normalize(golden("eval/gf"))
    distances = torch.cdist(queries, gallery).square()
    check(distances, "eval/dist")
    sides = [golden(f"eval/{name}").numpy() for name in ("q_pids", "g_pids", "q_camids", "g_camids")]
    cmc, precisions, _ = evaluate_rank(distances.numpy(), *sides, max_rank=50)
    check(torch.from_numpy(cmc), "eval/cmc")
    check(torch.tensor(np.mean(precisions)), "eval/mAP")
