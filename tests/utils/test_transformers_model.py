"""Models of transformers: all weights are in the files, or it is an error."""

import pytest
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

from fastreid.config import ConfigError
from fastreid.methods.diffusion_reid.features import ClipFeatures
from fastreid.utils.transformers_model import load_transformers_model

TINY = CLIPVisionConfig(
    hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
)


@pytest.fixture
def folder(tmp_path):
    CLIPVisionModelWithProjection(TINY).save_pretrained(tmp_path)
    return tmp_path


def test_what_the_files_have_beyond_the_model_is_left_out_without_a_table(folder, capfd):
    model = load_transformers_model(CLIPVisionModel, folder)
    stored = load_file(folder / "model.safetensors")
    name = "embeddings.class_embedding"
    kept = next(value for key, value in stored.items() if key.endswith(name))
    assert (next(value for key, value in model.named_parameters() if key.endswith(name)) == kept).all()
    assert "UNEXPECTED" not in capfd.readouterr().err


def test_missing_weights_are_an_error_and_not_random(folder):
    stored = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in stored.items() if "mlp" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 4 of \d+ tensors of CLIPVisionModel, such as .*mlp\.fc1\.bias"):
        load_transformers_model(CLIPVisionModel, folder)
    with pytest.raises(ConfigError, match=r"IIR\.CLIP '.*' cannot be read as CLIP's image encoder: .* lack 4 of"):
        ClipFeatures.of(str(folder))


def test_the_folder_of_another_model_is_an_error(folder):
    with pytest.raises(ValueError, match=r"its files lack \d+ of \d+ tensors of CLIPTextModel"):
        load_transformers_model(CLIPTextModel, folder)
