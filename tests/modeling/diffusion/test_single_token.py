"""Cross-attention to one token in closed form."""

import pytest
import torch

from fastreid.modeling.diffusion.single_token import SingleTokenAttention, use_single_token_attention
from fastreid.modeling.diffusion.unet_assets import load_unet
from tests.methods.dcac.conftest import DIM, write_assets


@pytest.fixture(scope="module")
def unets(tmp_path_factory):
    folder = write_assets(tmp_path_factory.mktemp("pipeline"))
    full, fast = load_unet(str(folder)).train(), load_unet(str(folder)).train()
    use_single_token_attention(fast)
    return full, fast


def outputs(unets, num_tokens, **options):
    latents, tokens = torch.randn(2, 4, 8, 8), torch.randn(2, num_tokens, DIM)
    times = torch.tensor([3, 800])
    return [unet(latents, times, encoder_hidden_states=tokens, **options).sample for unet in unets]


def test_one_token_gives_the_same_output_without_query_and_key(unets):
    calls = []
    fast = unets[1]
    hooks = [
        module.register_forward_hook(lambda *_: calls.append(1))
        for name, module in fast.named_modules()
        if name.endswith(("attn2.to_q", "attn2.to_k"))
    ]
    assert hooks
    torch.testing.assert_close(*outputs(unets, 1), rtol=1e-4, atol=1e-5)
    assert not calls
    for hook in hooks:
        hook.remove()


def test_several_tokens_take_the_full_attention(unets):
    assert torch.equal(*outputs(unets, 3))


def test_a_mask_takes_the_full_attention(unets):
    assert torch.equal(*outputs(unets, 1, encoder_attention_mask=torch.ones(2, 1)))


def test_self_attention_is_left_as_it_is(unets):
    kinds = {name: type(p) is SingleTokenAttention for name, p in unets[1].attn_processors.items()}
    assert kinds and all(is_single == ("attn2" in name) for name, is_single in kinds.items())


def test_dropout_takes_the_full_attention(unets):
    block = unets[1].down_blocks[0].attentions[0].transformer_blocks[0]
    block.attn2.to_out[1].p = 1.0
    assert not block.attn2(torch.randn(2, 5, 32), torch.randn(2, 1, DIM)).any()
    block.attn2.to_out[1].p = 0.0
