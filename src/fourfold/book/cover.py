"""The picture on the cover: one pass of light, computed.

As an SVG in the page's own colours for the book's first page, and as the picture that other sites show
beside a link to the book: ``python -m fourfold.book.cover CARD.png``.
"""

import base64
import io
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from fourfold.bench4f import light
from fourfold.data import probes
from fourfold.judging import records

SIDE = 200
"""Side of each plane in the picture, pixels."""
GAP = 150
LIGHT = np.array([86, 180, 233])
"""The colour of light: figures' sky blue, visible on a light and on a dark page."""
LABELS = ("16 tokens", "filter: one kernel", "camera: 16 products")
CARD = (1200, 630)
"""What sites that preview links ask for, pixels."""


def planes() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sixteen digits, the spectrum of one of them as filter, and what the camera reads; each (R, R)."""
    images = probes.digits()[1].images[:16]
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
    return tokens, spectrum, faint


def _glow(plane: torch.Tensor) -> Image.Image:
    """A plane (R, R) as light whose opacity is its strength."""
    strength = (plane / plane.max()).clamp(0, 1).numpy()
    pixels = np.concatenate([np.ones((*strength.shape, 1)) * LIGHT, 255 * strength[..., None]], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8), "RGBA")


def _picture(plane: torch.Tensor, x: int, label: str) -> str:
    """One plane (R, R) as a glowing square at ``x``, with its label below."""
    file = io.BytesIO()
    _glow(plane).save(file, "PNG")
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
    """The pass as an SVG."""
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
        + "".join(
            _picture(plane, step * i, label)
            for i, (plane, label) in enumerate(zip(planes(), LABELS, strict=True))
        )
        + "".join(_lens(SIDE + GAP / 2 + step * i) for i in (0, 1))
        + "</svg>\n"
    )


def card() -> Image.Image:
    """The pass and the book's name, on a dark ground."""
    dark, pale, sky = (16, 22, 28), (238, 241, 244), tuple(LIGHT.tolist())
    picture = Image.new("RGB", CARD, dark)
    draw = ImageDraw.Draw(picture)
    draw.text((78, 56), "fourfold", pale, ImageFont.load_default(92))
    papers = sum(not record.companion for record in records.load_all())
    line = f"A book that argues with {papers} papers and shows its working"
    draw.text((80, 172), line, pale, ImageFont.load_default(36))
    side, gap, top = 240, 160, 280
    for i, (plane, label) in enumerate(zip(planes(), LABELS, strict=True)):
        x = 80 + i * (side + gap)
        if i:
            for y in range(top + 30, top + side, 36):
                draw.line([(x - gap, y), (x, y)], fill=(44, 85, 109))
            lens = x - gap // 2
            draw.ellipse(
                [lens - 15, top - 10, lens + 15, top + side + 10], fill=(30, 52, 66), outline=sky, width=2
            )
        draw.rectangle([x - 1, top - 1, x + side, top + side], fill=(10, 26, 38), outline=sky)
        glow = _glow(plane).resize((side, side), Image.Resampling.NEAREST)
        picture.paste(glow, (x, top), glow)
        draw.text((x + side // 2, top + side + 34), label, pale, ImageFont.load_default(28), anchor="mm")
    return picture


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(cover(), encoding="utf-8")
    card().save(sys.argv[2], optimize=True)
