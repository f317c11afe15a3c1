"""Identity words that a network makes from images: what learns, and the loss that compares them with re-ID features."""

import pytest
import torch
import torch.nn.functional as F

from fastreid.methods.diffusion_reid.generator import DiffusionReID

KEYS = ("DIFFPERSON.IIR.MODE", "encoder", "DIFFPERSON.IIR.INPUT", "reid", "DIFFPERSON.IIR.HIDDEN", "16")


@pytest.fixture
def build(make_cfg, place):
    """(KEY, VALUE, …) -> a generator whose people have features."""

    def make(*words):
        torch.manual_seed(0)
        keys = (*KEYS, "DIFFPERSON.IIR.REID", str(place / "out/model_final.pth"), "DIFFPERSON.DI.ENABLED", "False")
        model = DiffusionReID(make_cfg(*keys, *words)).train()
        model.words.set_features(torch.randn(model.words.features.shape), torch.arange(3))
        return model

    return make


@pytest.fixture
def batch(place):
    paths = [str(place / f"train_{person}_0.png") for person in range(3)]
    images = torch.randint(0, 256, (3, 3, 64, 32), generator=torch.Generator().manual_seed(0)).float()
    return {"images": images, "targets": torch.arange(3), "img_paths": paths, "indices": torch.arange(3)}


def losses_of(model, batch):
    torch.manual_seed(5)
    return model(batch)


def test_the_loss_of_the_noise_reaches_the_encoder_and_no_frozen_part(build, batch):
    model = build("DIFFPERSON.IIR.REG", "0.0")
    losses_of(model, batch)["loss_identity"].backward()
    assert all(parameter.grad.any() for parameter in model.words.parameters())
    (extractor,) = model._extractor
    for part in (model.text, model.autoencoder, extractor):
        assert not any(parameter.requires_grad or parameter.grad is not None for parameter in part.parameters())
    assert all("lora" in name for name, p in model.denoiser.named_parameters() if p.grad is not None)


def test_a_step_depends_on_the_person_through_its_word_only(build, batch):
    model, others = build(), {**batch, "targets": torch.tensor([1, 0, 2])}
    mine, theirs = (losses_of(model, given)["loss_identity"] for given in (batch, others))
    assert not torch.equal(mine, theirs)
    model.words.features[:] = model.words.features[:1].clone()
    mine, theirs = (losses_of(model, given)["loss_identity"] for given in (batch, others))
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize("count", [1, 2])
def test_consistency_compares_the_state_at_the_word_with_the_feature_of_the_person(build, batch, count):
    model = build("DIFFPERSON.IIR.ID_CONSIST", "0.3", "DIFFPERSON.IIR.WORDS", str(count))
    loss = losses_of(model, batch)["loss_consistency"]
    prompts = model.text.encode([f"a photo of a <id> person, {text}" for text in model._text_of(batch)])
    states = model.text(prompts, model.words(batch["targets"]))[torch.arange(3), prompts.places[:, -1]]
    cosines = F.cosine_similarity(model.consistency(states), model.words.features, dim=1)
    torch.testing.assert_close(loss, 0.3 * (1 - cosines).mean())
    loss.backward()
    assert model.consistency.weight.grad.any() and model.words.layers[1].weight.grad.any()


def test_adapters_have_rank_and_scale_of_their_keys(build):
    for keys, expected in (((), (16, 1.0)), (("DIFFPERSON.TUNE.RANK", "4", "DIFFPERSON.TUNE.ALPHA", "8.0"), (4, 2.0))):
        modules = [part for part in build(*keys).denoiser.modules() if hasattr(part, "lora_A")]
        found = {(len(part.lora_A["default"].weight), part.scaling["default"]) for part in modules}
        assert found == {expected}
