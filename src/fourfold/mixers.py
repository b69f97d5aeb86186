"""Token mixers that chapters measure others against, on maps (batch, channels, height, width)."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

INIT = 0.02
"""Standard deviation of a filter's initial weights, as in GFNet's code and in those that follow it."""


class GlobalFilter(nn.Module):
    """GFNet's gate (Rao et al., arXiv 2107.00645): a spectrum times learned complex weights, for every input.

    One weight per channel and frequency of the real FFT; ``weight``: (channels, H, W//2 + 1, 2), real and
    imaginary parts. Half precision is filtered in float32. Raises ``ValueError`` for a map of another size.
    """

    def __init__(self, channels: int, height: int, width: int):
        super().__init__()
        self.size = (height, width)
        self.weight = nn.Parameter(INIT * torch.randn(channels, height, width // 2 + 1, 2))

    def kernel(self, x: Tensor) -> Tensor:
        """The kernel that ``x`` (batch, channels, H, W) is convolved with, circularly: the same for all."""
        # The two ortho norms of the filter cancel, so its kernel carries the whole 1/(H W).
        return torch.fft.irfft2(torch.view_as_complex(self.weight), s=self.size).expand(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, H, W) -> the same shape and dtype."""
        if tuple(x.shape[-2:]) != self.size:
            raise ValueError(
                f"x must be (batch, channels, {self.size[0]}, {self.size[1]}), got {tuple(x.shape)}"
            )
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        spectrum = torch.fft.rfft2(wide, norm="ortho") * torch.view_as_complex(self.weight)
        return torch.fft.irfft2(spectrum, s=self.size, norm="ortho").to(x.dtype)


class SelfAttention(nn.Module):
    """Multi-head self-attention between all tokens of a map, by torch's fused kernel; 4 C^2 + 4 C values.

    Raises ``ValueError`` if ``heads`` does not divide the channels.
    """

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"heads must be >= 1 and divide channels, got {heads} and {channels}")
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.projection = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, H, W) -> the same shape."""
        tokens = self.qkv(rearrange(x, "b c h w -> b (h w) c"))
        q, k, v = rearrange(tokens, "b n (three heads d) -> three b heads n d", three=3, heads=self.heads)
        mixed = rearrange(scaled_dot_product_attention(q, k, v), "b heads n d -> b n (heads d)")
        return rearrange(self.projection(mixed), "b (h w) c -> b c h w", h=x.shape[-2])
