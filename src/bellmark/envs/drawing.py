"""A small canvas for the environments' pictures: world coordinates in, antialiased uint8 pixels out.

Shapes are drawn with Pillow at three times the size and averaged down, which is all the antialiasing they
need.
"""

from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = str

OVERSAMPLING = 3

SKY, GROUND, INK, FAINT = "#f7f8fb", "#dfe3ec", "#22304a", "#b9c1d1"
BLUE, ORANGE, GREEN, RED = "#2f6fdd", "#ef8a2c", "#2f9e6e", "#d9484b"


class Canvas:
    """`width` × `height` pixels that show the world around `centre` at `pixels_per_unit`, y upwards."""

    def __init__(
        self, width: int, height: int, centre: Point, pixels_per_unit: float, background: Colour = SKY
    ):
        self.width, self.height = width, height
        self._scale = pixels_per_unit * OVERSAMPLING
        self._origin = (
            width * OVERSAMPLING / 2 - centre[0] * self._scale,
            height * OVERSAMPLING / 2 + centre[1] * self._scale,
        )
        self._image = Image.new("RGB", (width * OVERSAMPLING, height * OVERSAMPLING), background)
        self._draw = ImageDraw.Draw(self._image)

    def _pixel(self, point: Point) -> Point:
        return self._origin[0] + point[0] * self._scale, self._origin[1] - point[1] * self._scale

    def polygon(self, points: Iterable[Point], fill: Colour) -> None:
        self._draw.polygon([self._pixel(point) for point in points], fill=fill)

    def circle(self, centre: Point, radius: float, fill: Colour) -> None:
        (x, y), r = self._pixel(centre), radius * self._scale
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def rectangle(self, low: Point, high: Point, fill: Colour, radius: float = 0.0) -> None:
        (left, bottom), (right, top) = self._pixel(low), self._pixel(high)
        self._draw.rounded_rectangle((left, top, right, bottom), radius=radius * self._scale, fill=fill)

    def line(self, points: Iterable[Point], width: float, fill: Colour) -> None:
        """A stroke through `points`, `width` world units wide, with round ends and corners."""
        pixels = [self._pixel(point) for point in points]
        self._draw.line(pixels, fill=fill, width=max(1, round(width * self._scale)), joint="curve")
        r = width * self._scale / 2
        for x, y in (pixels[0], pixels[-1]):
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def pixels(self) -> np.ndarray:
        """The picture, uint8 [height, width, 3]."""
        small = self._image.resize((self.width, self.height), Image.Resampling.BOX)
        return np.asarray(small, dtype=np.uint8)
