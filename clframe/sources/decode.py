"""Decoding image files into one uint8 tensor's worth of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clframe.errors import DataError

THREADS = 4


def decode(paths: Sequence[Path], size: int) -> NDArray[np.uint8]:
    """The images as RGB [n, 3, size, size]; those of another size are resized, bilinearly."""
    out = np.empty((len(paths), 3, size, size), np.uint8)

    def one(i: int) -> None:
        out[i] = _pixels(paths[i], size).transpose(2, 0, 1)

    with ThreadPoolExecutor(THREADS) as pool:  # decoding leaves Python's lock
        for _ in pool.map(one, range(len(paths)), chunksize=256):
            pass
    return out


def _pixels(path: Path, size: int) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
            if rgb.size != (size, size):
                rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(rgb, np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise DataError(f"{path} cannot be read as an image: {e}. Mend or remove it.") from None
