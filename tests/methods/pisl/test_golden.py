"""The parts of PISL against numbers of the release's own code (tests/golden)."""

import pytest
import torch

from fastreid.methods.pisl.build import PISLOptions
from fastreid.methods.pisl.camera_contrast import CameraContrast, CameraProxies
from fastreid.methods.pisl.denoiser import ThetaDenoiser, time_embedding
from fastreid.methods.pisl.diffusion import DiffusedPatches, Signal, SpatialDiffusion, cosine_betas
from fastreid.methods.pisl.localization import LocalizationNetwork
from fastreid.methods.pisl.losses import DiffusionLoss, part_contrast
from fastreid.methods.pisl.part_heads import PartHeads
from fastreid.methods.pisl.patches import cut_patches, pooled_patches, released_first_noise, released_first_patches
from fastreid.methods.pisl.pisl import PISL
from fastreid.methods.pisl.pseudo_labels import EpochState
from fastreid.methods.pisl.released_sampler import ReleasedSampler
from fastreid.modeling.diffusion import NoiseSource, Schedule
from fastreid.modeling.heads import EmbeddingHead
from fastreid.modeling.losses import triplet_loss
from fastreid.structures import Condition
from fastreid.utils.draws import BatchDraws
from tests.golden_values import Golden

golden = Golden("pisl")


def released_schedule():
    return Schedule(
        {"trained_betas": cosine_betas(1000, 0.008)},
        solver="ddim",
        num_timesteps=1000,
        prediction_type="epsilon",
        timestep_spacing="trailing",
        cubic=False,
    )


def tiny_denoiser():
    first = released_first_noise(3)
    return ThetaDenoiser(feature_dim=8, size=18, time_dim=512, hidden=(16, 12), takes_theta=False, first=first)


def test_sizes_and_first_outputs():
    with torch.device("meta"):
        first = torch.zeros(3, 2, 3)
        localizer = LocalizationNetwork(in_channels=2048, channels=4096, hidden=512, first=first)
        options = {"feature_dim": 2048, "size": 18, "time_dim": 512, "hidden": (1024, 512), "first": first}
        denoiser = ThetaDenoiser(**options, takes_theta=False)
    assert sum(p.numel() for p in localizer.parameters()) == golden("loc/n_params")
    assert sum(p.numel() for p in denoiser.parameters()) == golden("net/n_params")
    golden.check(released_first_patches(3).flatten(), "loc/init_last_bias")
    golden.check(tiny_denoiser().net[-1].bias, "net/init_last_bias")


def test_schedule_and_forward_process():
    """The release computes the schedule in float32, which moves its small betas by up to 1.4e-3."""
    schedule = released_schedule()
    betas = torch.tensor(cosine_betas(1000, 0.008))
    torch.testing.assert_close(betas, golden("sched/betas"), rtol=2e-3, atol=0)
    golden.check(schedule.kept_signal(torch.arange(1000), torch.zeros(1)), "sched/alphas_cumprod")
    noisy = schedule.add_noise(golden("q/x0"), golden("q/eps"), golden("q/t").long())
    golden.check(noisy, "q/xt")


def test_noisy_boxes():
    signal, schedule = Signal(1.0, is_box=True), released_schedule()
    timesteps = golden("noisy/t").long().expand(4)
    noisy = schedule.add_noise(signal.encode(golden("noisy/theta0")), golden("noisy/eps"), timesteps)
    golden.check(signal.decode(noisy), "noisy/theta_noisy")


def test_time_embedding_and_denoiser():
    golden.check(time_embedding(golden("temb/t").long(), 512), "temb/emb512")
    denoiser, condition = tiny_denoiser(), Condition(golden("net/f")[:, None])
    denoiser.net.load_state_dict(golden.family("net/w/"))
    golden.check(denoiser(torch.randn(4, 18), golden("net/t_long"), condition), "net/eps_hat_t37")
    golden.check(denoiser(torch.randn(4, 18), torch.full((4,), 999), condition), "net/eps_hat_t_tensor")


def test_released_sampler():
    denoiser, steps = tiny_denoiser(), int(golden("ddim/num_steps"))
    denoiser.net.load_state_dict(golden.family("net/w/"))
    noise, step = torch.zeros(1 + 2 * steps, 4, 18), -1
    draws = golden("ddim/draws").split(golden("ddim/draw_rows").tolist())
    noise[0] = draws[0]
    for kind, rows in zip(golden.arrays["ddim/draw_kinds"][1:], draws[1:], strict=True):
        step += kind == "like"
        noise[(1 if kind == "like" else 2) + 2 * step, : len(rows)] = rows
    sampler = ReleasedSampler(released_schedule(), steps, renewal=True, ensemble=True)
    with torch.no_grad():
        theta = sampler.sample(denoiser, Condition(golden("net/f")[:, None]), None, noise)
    golden.check(theta.view(4, 3, 2, 3), "ddim/theta")


def test_patches():
    maps, theta = golden("patch/feature_map"), golden("patch/theta")[:, None]
    golden.check(cut_patches(maps, theta)[:, 0], "patch/patch")
    golden.check(pooled_patches(maps, theta)[:, 0], "patch/pooled")


def test_soft_triplet():
    embedding = golden("tri/emb").requires_grad_()
    loss = triplet_loss(embedding, golden("tri/targets").long(), 0.0, False, True)
    loss.backward()
    golden.check(loss, "tri/loss")
    golden.check(embedding.grad, "tri/grad")


def test_camera_contrast():
    features = golden("cam/few/features").requires_grad_()
    clusters, cameras = golden("cam/few/proxy_pids").long(), golden("cam/few/proxy_cids").long()
    proxies = CameraProxies(golden("cam/few/proxies")[None], clusters, cameras)
    contrast = CameraContrast(temperature=0.07, num_hard=50, fills_with_own=True)
    loss = contrast(features, golden("cam/few/targets").long(), golden("cam/few/cams").long(), proxies, 0)
    loss.backward()
    golden.check(loss[None], "cam/few/loss")
    golden.check(features.grad, "cam/few/grad")


def test_diffusion_loss():
    given = {
        name: golden(f"scd/{name}").requires_grad_() for name in ("theta_noisy", "theta0", "eps_hat", "eps", "f_p")
    }
    patches = DiffusedPatches(
        clean=given["theta0"],
        noisy=given["theta_noisy"],
        denoised=torch.zeros(8, 3, 2, 3),
        noise=given["eps"],
        predicted_noise=given["eps_hat"].view(8, 3, 2, 3),
        step=torch.zeros(8, 3, 2, 3),
        step_target=torch.zeros(8, 3, 2, 3),
    )
    loss = DiffusionLoss("eps", "noisy", 0.5, 0.1, 0.3, 0.07)
    parts, targets = given["f_p"].transpose(1, 2), golden("scd/targets").long()
    terms = loss(patches, parts, targets)
    sum(terms.values()).backward()
    golden.check(sum(terms.values()), "scd/loss")
    golden.check(terms["diffusion"], "scd/noise_loss")
    golden.check(terms["consistency"] / 0.5, "scd/consistency_loss")
    golden.check(terms["contrast"] / 0.3, "scd/contrastive_loss")
    golden.check(part_contrast(parts, targets, 0.07)[1], "scd/part_weights")
    for name, tensor in given.items():
        golden.check(tensor.grad, f"scd/grad_{name}")


class RecordedDraws:
    """The random numbers of the release's step."""

    def common_uniform(self):
        return (golden("model/train_t") + 0.5) / 1000

    def normal(self, *shape):
        return golden("model/train_eps").flatten(1)


@pytest.fixture
def released_model():
    """The tiny model of the release; its backbone is the identity."""
    names, schedule = golden.family("model/w/"), released_schedule()
    options = {"embedding_dim": 0, "num_classes": 10, "neck_feat": "before", "pool_type": "GlobalAvgPool"}
    heads = EmbeddingHead(
        feat_dim=8, **options, cls_type="Linear", scale=1, margin=0.0, with_bnneck=True, norm_type="BN"
    )
    part_heads = PartHeads(num_parts=3, dim=8, num_rows=10, norm="BN", std=0.001)
    localizer = LocalizationNetwork(in_channels=8, channels=12, hidden=6, first=released_first_patches(3))
    diffusion = SpatialDiffusion(
        localizer=localizer,
        denoiser=tiny_denoiser(),
        schedule=schedule,
        signal=Signal(1.0, is_box=True),
        sampler=ReleasedSampler(schedule, 1000, renewal=True, ensemble=True),
        t_per_sample=False,
        noise=NoiseSource("image", 0, (18,)),
        sample_normalized=True,
    )

    def fill(module, prefix):
        module.load_state_dict({name.removeprefix(prefix): v for name, v in names.items() if name.startswith(prefix)})

    fill(heads.bottleneck[0], "bnneck.")
    heads.weight.data.copy_(names["classifier.weight"])
    for part in range(3):
        fill(part_heads.necks[part], f"bnneck{part}.")
        part_heads.classifiers.data[part].copy_(names[f"classifier{part}.weight"])
    localizer.features[:2].load_state_dict(
        {name.removeprefix("patch_proposal.localization."): v for name, v in names.items() if ".localization." in name}
    )
    fill(localizer.hidden, "patch_proposal.fc_loc.0.")
    fill(localizer.output, "patch_proposal.fc_loc.2.")
    fill(diffusion.denoiser.net, "diffusion_patch.net.")
    return PISL(
        backbone=torch.nn.Identity(),
        heads=heads,
        part_heads=part_heads,
        spatial_diffusion=diffusion,
        camera_contrast=CameraContrast(0.07, 50, True),
        diffusion_loss=DiffusionLoss("eps", "noisy", 0.5, 0.1, 0.3, 0.07),
        options=PISLOptions(0.5, 5, 0.1, 1.0, 0.0, 0.5, 0.1, "noisy", "zeros", shared_neck=True, second_pass=False),
        relabel=lambda extractor: pytest.fail("no labelling here"),
        state=EpochState(num_clusters=10),
        pixel_mean=[0.0] * 8,
        pixel_std=[1.0] * 8,
    )


def test_released_model(released_model, monkeypatch):
    monkeypatch.setattr(BatchDraws, "of", lambda batch, device: RecordedDraws())
    maps = golden("model/feature_map")
    _, features = released_model.heads.embed(maps)
    pooled, diffused = released_model._patches(maps, features, {})
    parts = released_model.part_heads.embed(pooled)
    golden.check(diffused.clean, "model/theta0_train")
    golden.check(features, "model/train_f_g")
    golden.check(diffused.predicted_noise.flatten(1), "model/train_eps_hat")
    golden.check(diffused.noisy, "model/train_theta_noisy")
    golden.check(parts.transpose(1, 2), "model/train_f_p")
    golden.check(released_model.heads.logits(features), "model/train_logits_g")
    golden.check(released_model.part_heads.logits(parts, 10).transpose(1, 2), "model/train_logits_p")
    golden.check(released_model.eval()(maps), "model/eval_feature")
