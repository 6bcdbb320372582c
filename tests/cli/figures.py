# SPDX-License-Identifier: MIT
"""Reads figures back: the pixels of a PNG, and the texts, maps and their places of an SVG. No pictures library."""
import base64
import struct
import xml.etree.ElementTree as xml
import zlib

import numpy as np

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"

# Colours of viridis by step of 256, as its authors list them.
VIRIDIS = {0: (68, 1, 84), 64: (59, 82, 139), 128: (33, 145, 140), 192: (94, 201, 98), 255: (253, 231, 37)}


def _unfilter(kind, row, above, size):
    if kind == 1:
        return np.cumsum(row.reshape(-1, size), axis=0, dtype=np.uint64).astype(np.uint8).reshape(-1)
    if kind == 2:
        return row + above
    assert kind == 0, f"filter {kind}"
    return row


def read_png(data):
    """u8 [height, width, 3 or 4], and dots per inch (None: not said)."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed, dpi, names = 8, b"", None, []
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length:at + 12 + length])[0] == zlib.crc32(name + body)
        at += 12 + length
        names.append(name)
        if name == b"IHDR":
            width, height, depth, color = struct.unpack(">IIBB", body[:10])
            assert depth == 8 and color in (2, 6)
            size = 3 if color == 2 else 4
        elif name == b"IDAT":
            packed += body
        elif name == b"pHYs":
            dpi = struct.unpack(">II", body[:8])[0] * 0.0254
    assert names[-1] == b"IEND" and b"tIME" not in names and b"tEXt" not in names
    rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + size * width)
    pixels = np.zeros((height, size * width), np.uint8)
    for y in range(height):
        pixels[y] = _unfilter(rows[y, 0], rows[y, 1:], pixels[y - 1] if y else np.zeros_like(pixels[0]), size)
    return pixels.reshape(height, width, size), dpi


class Svg:
    """A figure's texts and maps."""

    def __init__(self, path):
        self.root = xml.parse(path).getroot()
        self.texts = [element.text or "" for element in self.root.iter(SVG + "text")]
        images = [self._image(element) for element in self.root.iter(SVG + "image")]
        self.bars = [image for image in images if image[1].shape[1] == 1 and image[1].shape[0] == 256]
        self.maps = [image for image in images if image[1].shape[:2] != (256, 1)]
        self.size = tuple(float(self.root.get(name)[:-2]) for name in ("width", "height"))

    @staticmethod
    def _image(element):
        """x, y, width, height in points, and u8 [rows, columns, 4], of an image that has each cell several times."""
        place = tuple(float(element.get(name)) for name in ("x", "y", "width", "height"))
        pixels = read_png(base64.b64decode(element.get(LINK).split(",")[1]))[0]
        columns, rows = (int(side) for side in element.get("data-cells").split("x"))
        times = pixels.shape[0] // rows
        cells = pixels[::times, ::times]
        assert cells.shape[:2] == (rows, columns) and max(pixels.shape) >= 512
        assert np.array_equal(pixels, cells.repeat(times, 0).repeat(times, 1))
        return place, cells

    def text_places(self):
        """(text, x, y) in points."""
        for element in self.root.iter(SVG + "text"):
            turned = element.get("transform")
            if turned:
                x, y = (float(number) for number in turned.split("(")[1].split(")")[0].split())
            else:
                x, y = float(element.get("x")), float(element.get("y"))
            yield element.text or "", x, y

    def boxes(self, narrow=False):
        """Of texts that are not turned: (text, left, top, right, bottom), by a generous guess at their width; or of all
        texts, by a narrow one."""
        for element in self.root.iter(SVG + "text"):
            size, text = float(element.get("font-size")), element.text or ""
            wide = (0.4 if narrow else 0.5) * size * len(text)
            start = -{"start": 0, "middle": 0.5, "end": 1}[element.get("text-anchor")] * wide
            if not element.get("transform"):
                left, base = float(element.get("x")) + start, float(element.get("y"))
                yield text, left, base - 0.75 * size, left + wide, base
            elif narrow:
                x, y = (float(number) for number in element.get("transform").split("(")[1].split(")")[0].split())
                yield text, x - 0.38 * size, y - start - wide, x + 0.38 * size, y - start


def steps_of(colors, table):
    """Which of the 256 steps each RGB colour is; -1: none of them."""
    known = {tuple(color): step for step, color in enumerate(table)}
    flat = [known.get(tuple(color[:3]), -1) for color in colors.reshape(-1, colors.shape[-1])]
    return np.array(flat).reshape(colors.shape[:-1])


def bar_table(svg):
    """The colours of a figure's colour bar, from low to high: the table that its maps were drawn with."""
    return svg.bars[0][1][::-1, 0, :3]
