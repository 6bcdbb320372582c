# SPDX-License-Identifier: MIT
"""Reads figures back: the pixels of a PNG, and the texts, maps, lines and their places of an SVG of matplotlib's."""
import base64
import io
import math
import re
import struct
import xml.etree.ElementTree as xml
import zlib

import numpy as np
from PIL import Image

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"

# Colours of viridis by step of 256, as its authors list them.
VIRIDIS = {0: (68, 1, 84), 64: (59, 82, 139), 128: (33, 145, 140), 192: (94, 201, 98), 255: (253, 231, 37)}


def read_png(data):
    """u8 [height, width, 3 or 4], and dots per inch (None: not said)."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, dpi, names = 8, None, []
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length:at + 12 + length])[0] == zlib.crc32(name + body)
        at += 12 + length
        names.append(name)
        if name == b"pHYs":
            dpi = struct.unpack(">II", body[:8])[0] * 0.0254
    assert names[-1] == b"IEND" and b"tIME" not in names and b"tEXt" not in names
    image = Image.open(io.BytesIO(data))
    pixels = np.asarray(image if image.mode in ("RGB", "RGBA") else image.convert("RGBA"))
    return pixels, dpi


def _numbers(text):
    return [float(number) for number in re.findall(r"-?[0-9.]+(?:e-?[0-9]+)?", text)]


def _style(element):
    """{"fill": "#0072b2", ...}"""
    return dict(part.strip().split(": ", 1) for part in element.get("style", "").split(";") if ": " in part)


def _points(element):
    """[n, 2] of a path of straight lines."""
    return np.array(_numbers(element.get("d"))).reshape(-1, 2)


class Svg:
    """A figure's texts, maps, and lines; places are in points."""

    def __init__(self, path):
        self.root = xml.parse(path).getroot()
        self.texts = [element.text or "" for element in self.root.iter(SVG + "text")]
        self.size = tuple(float(self.root.get(name)[:-2]) for name in ("width", "height"))
        images = [(element.get("id"), self._image(element)) for element in self.root.iter(SVG + "image")]
        self.bars = [image for name, image in images if name.startswith("bar-")]
        self.maps = [image for name, image in images if name.startswith("map-")]
        # The points at the ends of colour bars, for what is beyond them.
        self.tips = [element for element in self.root.iter(SVG + "g") if re.fullmatch("bar-[0-9]+-.*", element.get("id", ""))]

    @staticmethod
    def _image(element):
        """x, y, width, height, and u8 [rows, columns, 4], of an image that has each cell several times."""
        across, _, _, down, left, base = _numbers(element.get("transform"))
        width, height = (float(element.get(name)) for name in ("width", "height"))
        place = left, base + down * height, across * width, -down * height
        pixels = read_png(base64.b64decode(element.get(LINK).split(",")[1]))[0]
        assert down < 0 and max(pixels.shape) >= 512 and pixels.shape[2] == 4
        return place, Svg._cells(pixels[::-1])

    @staticmethod
    def _cells(pixels):
        """As large ones as there can be: all are drawn alike, as often as 512 pixels take."""
        longest = max(pixels.shape)
        for times in range(512, 0, -1):
            if longest % times or times != -(-512 * times // longest):
                continue
            cells = pixels[::times, ::times]
            if np.array_equal(pixels, cells.repeat(times, 0).repeat(times, 1)):
                return cells
        raise AssertionError("pixels of no cells")

    def lines(self, color):
        """[n, 2] of each line of a colour, in the order in which they were drawn."""
        return [_points(element) for element in self.root.iter(SVG + "path") if _style(element).get("stroke") == color]

    def areas(self, color):
        """[n, 2] of each area that is filled with a colour."""
        paths = {"#" + element.get("id", ""): element for element in self.root.iter(SVG + "path")}
        areas = [_points(element) for element in self.root.iter(SVG + "path") if _style(element).get("fill") == color]
        used = [element for element in self.root.iter(SVG + "use") if _style(element).get("fill") == color]
        return areas + [_points(paths[element.get(LINK)]) + [float(element.get("x")), float(element.get("y"))]
                        for element in used if "C" not in paths[element.get(LINK)].get("d")]

    def boxes(self):
        """Of texts that are not turned: (text, left, top, right, bottom), by a generous guess at their width."""
        for element in self.root.iter(SVG + "text"):
            style, turn, text = _style(element), element.get("transform", ""), element.text or ""
            if "rotate(-90" in turn:
                continue
            size = float(re.search("([0-9.]+)px", style.get("font") or style["font-size"])[1])
            at = _numbers(turn)[:2] if turn.startswith("translate(") else [element.get(name, math.nan) for name in "xy"]
            x, y = map(float, at)
            wide = 0.5 * size * len(text)
            left = x - {"start": 0, "middle": 0.5, "end": 1}[style.get("text-anchor", "start")] * wide
            yield text, left, y - 0.75 * size, left + wide, y


def steps_of(colors, table):
    """Which of the 256 steps each RGB colour is; -1: none of them."""
    known = {tuple(color): step for step, color in enumerate(table)}
    found, where = np.unique(colors[..., :3].reshape(-1, 3), axis=0, return_inverse=True)
    return np.array([known.get(tuple(color), -1) for color in found])[where].reshape(colors.shape[:-1])


def bar_table(svg):
    """The colours of a figure's colour bar, from low to high: the table that its maps were drawn with."""
    return svg.bars[0][1][::-1, 0, :3]
