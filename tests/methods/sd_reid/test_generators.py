"""Stage 2 with generators of vectors, whitened latents, targets of the whole training set and stored features."""

from dataclasses import dataclass

import pytest
import torch

from fastreid.config import ConfigError
from fastreid.data.transforms import DrawMirroring
from fastreid.methods.sd_reid.stage2 import SDReIDStage2
from fastreid.modeling import build_model
from fastreid.modeling.diffusion import AssetError
from fastreid.structures import PersonImage
from tests.modeling import toys

NO_ASSETS = (
    *("MODEL.SDMODEL.SCHEDULER_CONFIG.PRETRAINED_PATH", "", "MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH", ""),
    *("MODEL.SDMODEL.SCHEDULER_CONFIG.NAME", "ddim"),
)
MLP = (*NO_ASSETS, "MODEL.SDMODEL.DENOISER", "mlp", "MODEL.SDMODEL.MLP_CONFIG.WIDTH", 32)
TRANSFORMER = (
    *(*NO_ASSETS, "MODEL.SDMODEL.DENOISER", "transformer"),
    *("MODEL.SDMODEL.TRANSFORMER_CONFIG.HEADS", 3, "MODEL.SDMODEL.TRANSFORMER_CONFIG.DEPTH", 1),
)
WHITE = ("MODEL.SDMODEL.WHITEN_LATENT", True, "TEST.SDMODEL.GENERATED_SPACE", "latent")
OF_ALL = ("MODEL.SDMODEL.TARGET", "person_in_view_of_all")


def indexed(size=8, seed=0):
    return {**toys.batch(size, seed), "indices": torch.arange(size)}


@dataclass
class FakeTrainingSet:
    size: int = 8

    @property
    def images(self):
        batch = toys.batch(self.size)
        return [
            PersonImage(path, int(person), 0, int(view))
            for path, person, view in zip(batch["img_paths"], batch["targets"], batch["viewids"], strict=True)
        ]

    @property
    def labels(self):
        return toys.batch(self.size)["targets"].tolist()

    def batches(self, images):
        yield indexed(self.size)


def run_tasks(model, training_set=None):
    model.eval()
    with torch.no_grad():
        for task in model.epoch_tasks():
            task.run(training_set or FakeTrainingSet())


@pytest.mark.parametrize("kind", [MLP, TRANSFORMER], ids=["mlp", "transformer"])
@pytest.mark.parametrize("extra", [(), WHITE, OF_ALL, ("MODEL.SDMODEL.OWN_VIEW_CONDITION", True)])
def test_generators_of_vectors_train_and_describe_without_assets(make_stage2, kind, extra):
    # Whitening by eight images would amplify rounding.
    plain = ("MODEL.SDMODEL.WHITEN_CONDITIONS", False)
    model = make_stage2(*kind, *plain, *extra, "MODEL.SDMODEL.U_COND_PERCENT", 0.5)
    run_tasks(model)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    for seed in range(3):
        model.train()
        optimizer.zero_grad()
        model(indexed(seed=seed))["loss_diffusion"].backward()
        optimizer.step()
    without = {n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    assert not without
    with torch.no_grad():
        together = model.eval()(toys.batch())
        alone = torch.cat([model(one) for one in singles(toys.batch())])
    assert together.shape == (8, 3 * toys.FEATURE_DIM) and together.isfinite().all()
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)


def singles(batch):
    return [{name: value[i : i + 1] for name, value in batch.items()} for i in range(len(batch["images"]))]


def test_the_requested_view_reaches_the_mlp(make_stage2):
    model = make_stage2(*MLP)
    for parameter in model.denoiser.parameters():
        parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        generated = model.eval().generate(model.person(toys.batch()["images"]), toys.batch())
    assert not torch.allclose(generated[:, 0], generated[:, 1])


def test_a_checkpoint_has_the_whole_generator(make_stage2):
    model, other = make_stage2(*MLP, *WHITE), make_stage2(*MLP, *WHITE)
    run_tasks(model)
    for parameter in model.denoiser.parameters():
        parameter.data.normal_(std=0.1)
    other.load_checkpoint_state_dict(model.checkpoint_state_dict())
    with torch.no_grad():
        assert torch.equal(model.eval()(toys.batch()), other.eval()(toys.batch()))


def test_whitened_latents_are_what_is_compared(make_stage2):
    parts = ("TEST.SDMODEL.PARTS", ("latent",), "TEST.SDMODEL.FUSION", "concat")
    model = make_stage2(*MLP, *WHITE, *parts)
    run_tasks(model)
    with torch.no_grad():
        latents = model.eval()(toys.batch())
        identity = model.person(toys.batch()["images"]).identity
    torch.testing.assert_close(latents, model.latent_whitening.encode(identity))
    torch.testing.assert_close(latents.mean(dim=0), torch.zeros(toys.FEATURE_DIM), atol=1e-3, rtol=0)


def test_generated_features_are_decoded_unless_latents_are_compared(make_stage2):
    white = ("MODEL.SDMODEL.WHITEN_LATENT", True, "TEST.SDMODEL.GENERATED_NECK", False)
    as_latents = make_stage2(*MLP, *white, "TEST.SDMODEL.GENERATED_SPACE", "latent")
    as_features = make_stage2(*MLP, *white)
    for model in (as_latents, as_features):
        run_tasks(model)
    features = as_latents.person(toys.batch()["images"])
    with torch.no_grad():
        latents, decoded = (m.eval().generate(features, toys.batch()) for m in (as_latents, as_features))
    torch.testing.assert_close(as_latents.latent_whitening.decode(latents.flatten(0, 1)), decoded.flatten(0, 1))


def test_targets_of_the_whole_training_set_do_not_depend_on_the_batch(make_stage2):
    model = make_stage2(*MLP, *OF_ALL)
    run_tasks(model)
    batch = indexed()
    drawn = model.memory.draw(batch["indices"][:1], torch.tensor([0.9]))
    with torch.no_grad():
        latents = model._encode(model.person(batch["images"]).identity)
    members = [i for i in range(1, 4) if batch["viewids"][i] == 1]  # the others of person 0 in view 1
    torch.testing.assert_close(drawn.latents[0], latents[members].mean(dim=0))


def test_stored_features_give_the_same_loss(make_stage2, tmp_path):
    for image in FakeTrainingSet().images:
        (tmp_path / image.path).write_bytes(b"x")
    stored = FakeTrainingSet()
    images = [PersonImage(str(tmp_path / i.path), i.person, i.camera, i.view) for i in stored.images]
    plain = make_stage2(*MLP)
    cached = make_stage2(*MLP, "MODEL.SDMODEL.FEATURE_CACHE", str(tmp_path / "cache"))

    class Stored(FakeTrainingSet):
        @property
        def images(self):
            return images

    run_tasks(plain, stored)
    run_tasks(cached, Stored())
    mirrored = torch.arange(8) % 3 == 0
    batch = indexed()
    pictures = torch.where(mirrored[:, None, None, None], batch["images"].flip(-1), batch["images"])
    losses = []
    for model, shown in ((plain, pictures), (cached, mirrored)):
        torch.manual_seed(3)
        losses.append(model.train()({**batch, "images": shown})["loss_diffusion"])
    torch.testing.assert_close(losses[0], losses[1])


def test_pixels_are_replaced_in_training_only(tmp_path):
    cfg = toys.stage2_cfg(tmp_path, "MODEL.SDMODEL.FEATURE_CACHE", "cache")
    cfg.merge_from_list(["INPUT.PADDING.ENABLED", False, "INPUT.REA.ENABLED", False])
    assert SDReIDStage2.image_transforms(cfg, is_train=False) == {}
    transforms = SDReIDStage2.image_transforms(cfg, is_train=True)
    assert list(transforms) == ["images"] and isinstance(transforms["images"], DrawMirroring)
    cfg.merge_from_list(["MODEL.SDMODEL.FEATURE_CACHE", ""])
    assert SDReIDStage2.image_transforms(cfg, is_train=True) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("MODEL.SDMODEL.DENOISER", "mpl"), "MODEL.SDMODEL.DENOISER"),
        (("MODEL.SDMODEL.TARGET", "person_in_view_of_al"), "person_in_view_of_all"),
        (("TEST.SDMODEL.GENERATED_SPACE", "latents"), "latent"),
        ((*MLP, "MODEL.SDMODEL.MID_RESIDUAL", "learnt"), "MID_RESIDUAL"),
        ((*TRANSFORMER, "MODEL.SDMODEL.TRANSFORMER_CONFIG.HEADS", 5), "TRANSFORMER_CONFIG.HEADS=5 does not divide"),
        (("MODEL.SDMODEL.SCHEDULER_CONFIG.PRETRAINED_PATH", ""), "a UNet needs the schedule"),
    ],
)
def test_wrong_choices_name_their_key(make_stage2, options, message):
    with pytest.raises(ConfigError, match=message):
        make_stage2(*options)


def test_a_unet_still_needs_its_assets(assets, tmp_path):
    with pytest.raises(AssetError, match="no UNet in"):
        build_model(toys.stage2_cfg(assets, "MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH", str(tmp_path)), num_classes=4)
