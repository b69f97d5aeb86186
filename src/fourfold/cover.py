"""The picture on the cover: one pass of light, computed, as an SVG in the page's own colours."""

import base64
import io

import numpy as np
import torch
from PIL import Image

from fourfold import datasets, light

SIDE = 200
"""Side of each plane in the picture, pixels."""
GAP = 150
LIGHT = np.array([86, 180, 233])
"""The colour of light: figures' sky blue, visible on a light and on a dark page."""


def _picture(plane: torch.Tensor, x: int, label: str) -> str:
    """One plane (R, R) as a glowing square at ``x``, with its label below."""
    glow = (plane / plane.max()).clamp(0, 1).numpy()
    pixels = np.concatenate([np.ones((*glow.shape, 1)) * LIGHT, 255 * glow[..., None]], axis=-1)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8), "RGBA").save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<rect x="{x}" y="40" width="{SIDE}" height="{SIDE}" fill="#10202c" stroke="currentColor"/>'
        f'<image x="{x}" y="40" width="{SIDE}" height="{SIDE}" href="data:image/png;base64,{data}" '
        'style="image-rendering:pixelated"/>'
        f'<text x="{x + SIDE / 2}" y="{SIDE + 66}" text-anchor="middle">{label}</text>'
    )


def _lens(x: float) -> str:
    top, bottom = 34, SIDE + 46
    middle = (top + bottom) / 2
    return (
        f'<path d="M{x} {top} Q{x + 26} {middle} {x} {bottom} Q{x - 26} {middle} {x} {top}Z" '
        'fill="currentColor" fill-opacity="0.12" stroke="currentColor"/>'
        f'<text x="{x}" y="24" text-anchor="middle">lens</text>'
    )


def cover() -> str:
    """Sixteen digits, the spectrum of one of them as filter, and what the camera reads."""
    images = datasets.digits()[1].images[:16]
    # Two dark pixels between tokens show the tiles; the engine itself needs none for valid padding.
    size = 40
    tokens = light.tile(images, R=size, pitch=10)
    response = images[3].flip(0, 1)
    spectrum = torch.fft.fftshift(torch.fft.fft2(response, s=(size, size))).abs().sqrt()
    camera = light.light_pass(tokens, response).clamp(min=0)
    read = [(7 + 10 * (i // 4), 7 + 10 * (i % 4)) for i in range(16)]
    faint = 0.35 * camera / camera.max()
    answers = torch.stack([camera[y, x] for y, x in read])
    for (y, x), answer in zip(read, answers / answers.max(), strict=True):
        faint[y, x] = answer**3
    step = SIDE + GAP
    width = 3 * SIDE + 2 * GAP
    beams = "".join(
        f'<path d="M{SIDE + step * i} {y} H{step * (i + 1)}" stroke="rgb(86,180,233)" stroke-opacity="0.5"/>'
        for i in (0, 1)
        for y in range(70, SIDE + 40, 35)
    )
    description = (
        "Light from a plane of sixteen digits passes a lens, a filter and a second lens; sixteen bright "
        "pixels on the camera are the inner products of the digits with the kernel."
    )
    return (
        f'<svg class="cover" viewBox="-8 0 {width + 16} {SIDE + 80}" role="img" aria-label="{description}" '
        'xmlns="http://www.w3.org/2000/svg" fill="currentColor" font-size="19" '
        'font-family="system-ui, sans-serif">'
        + beams
        + _picture(tokens, 0, "16 tokens")
        + _lens(SIDE + GAP / 2)
        + _picture(spectrum, step, "filter: one kernel")
        + _lens(SIDE + step + GAP / 2)
        + _picture(faint, 2 * step, "camera: 16 products")
        + "</svg>\n"
    )
