# SPDX-License-Identifier: MIT
"""The values of a sketch, from the whole matrix: heads of 4, sides that 4 divides and 8 does not divide both."""
import hashlib

import numpy as np

PLACES = 64


def drawn(path, name, rows, columns, each):
    """The places, as sketch.py says that they are drawn."""
    numbers = hashlib.shake_128(f"{path}\0{name}".encode()).digest(8 * PLACES // each)
    at = [each * (int.from_bytes(numbers[8 * i:8 * i + 8], "little") % (rows * columns // each)) for i in range(PLACES // each)]
    return [(one // columns, one % columns + i) for one in at for i in range(each)]


def expected(path, name, matrix, count, stored=True):
    """The values of a matrix [out, in] of `count` heads, that is not `stored` so but [in, out]."""
    matrix = matrix.detach().float().numpy()
    d = (matrix.shape[1] if name == "wo" else len(matrix)) // count
    found = []
    for head in range(count):
        part = matrix[:, head * d:head * d + d] if name == "wo" else matrix[head * d:head * d + d]
        part = part if stored else part.T
        found.append([part[at] for at in drawn(path, name, *part.shape, 4)])  # heads of 4, sides of 16
    return np.array(found)
