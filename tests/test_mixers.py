"""Mixers that chapters share: a static filter is a circular convolution, attention is torch's."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from fourfold import cost, training
from fourfold.mixers import GlobalFilter, SelfAttention

from .draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}


@pytest.mark.parametrize(("height", "width"), [(4, 6), (7, 6), (5, 9), (8, 1)])
def test_a_global_filter_is_a_circular_convolution_with_its_kernel(height, width):
    x = normal(2, 3, height, width)
    with training.seeded(0):
        gate = GlobalFilter(3, height, width).double()
    assert cost.parameters(gate) == 3 * height * (width // 2 + 1) * 2
    kernel = gate.kernel(x)
    direct = sum(
        kernel[..., i, j, None, None] * x.roll((i, j), (-2, -1)) for i in range(height) for j in range(width)
    )
    torch.testing.assert_close(gate(x), direct, **EXACT)
    torch.testing.assert_close(gate(x.roll((1, 2), (-2, -1))), gate(x).roll((1, 2), (-2, -1)), **EXACT)
    one = functional_call(gate, {"weight": torch.zeros_like(gate.weight) + torch.tensor([1.0, 0.0])}, (x,))
    torch.testing.assert_close(one, x, **EXACT)


def test_half_precision_is_filtered_in_float32():
    x = normal(1, 2, 8, 8).bfloat16()
    with training.seeded(0):
        gate = GlobalFilter(2, 8, 8)
    assert gate(x).dtype == torch.bfloat16
    torch.testing.assert_close(gate(x), gate(x.float()).bfloat16())


def test_self_attention_is_torchs():
    x = normal(2, 8, 7, 6)
    with training.seeded(0):
        attention = SelfAttention(8, heads=2).double()
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).double()
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = attention.qkv.weight.data, attention.qkv.bias.data
    theirs.out_proj.load_state_dict(attention.projection.state_dict())
    tokens = x.flatten(2).mT
    expected = theirs(tokens, tokens, tokens, need_weights=False)[0].mT.reshape(x.shape)
    torch.testing.assert_close(attention(x), expected, **EXACT)
    assert cost.parameters(attention) == 4 * 8**2 + 4 * 8


def test_gradients():
    with training.seeded(0):
        mixers = GlobalFilter(2, 3, 4).double(), SelfAttention(2, heads=1).double()
    for mixer in mixers:
        assert torch.autograd.gradcheck(mixer, normal(1, 2, 3, 4).requires_grad_())


REFUSED = [
    (lambda: SelfAttention(6), "heads must be >= 1 and divide channels, got 4 and 6"),
    (lambda: SelfAttention(4, heads=0), "heads must be >= 1 and divide channels, got 0 and 4"),
    (lambda: GlobalFilter(8, 8, 8)(torch.zeros(1, 8, 8, 9)), r", 8, 8\), got \(1, 8, 8, 9\)"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
