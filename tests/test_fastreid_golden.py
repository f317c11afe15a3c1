"""Models of fast-reid: its parameter names, features and losses, with weights made by a rule."""

import pytest
import torch

from tests import fastreid_golden as golden

COMPUTED = [case for case in golden.CASES if f"{case}/features" in golden.ARRAYS]


@pytest.mark.parametrize("case", golden.CASES)
def test_names_and_shapes_of_parameters_are_fastreids(case):
    own = {name: tuple(value.shape) for name, value in golden.build_model(golden.config_of(case)).state_dict().items()}
    assert own == golden.names_of(case)


@pytest.mark.parametrize("case", COMPUTED)
def test_features_and_losses_are_fastreids(case):
    model, images = golden.model_of(case)
    with torch.no_grad():
        features = model.eval()({"images": images.clone()})[:, :: golden.CHANNELS]
        losses = model.train()({"images": images.clone(), "targets": torch.tensor([0, 0, 1, 1])})
    expected = torch.from_numpy(golden.ARRAYS[f"{case}/features"])
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert {f"{case}/{name}" for name in losses} == {key for key in golden.ARRAYS if key.startswith(f"{case}/loss")}
    for name, loss in losses.items():
        # Rounding is larger here: in training, norms divide by the deviations of four images.
        assert loss.item() == pytest.approx(float(golden.ARRAYS[f"{case}/{name}"]), rel=5e-4), name


def test_every_case_of_the_file_is_tried():
    assert {key.partition("/")[0] for key in golden.ARRAYS} == golden.CASES.keys()
