"""Colours of class maps: which classes look alike, and a colour for errors that no class has."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.scenes.manifest import SceneClass

#: Two colours with a smaller CIEDE2000 difference look alike in a map; black and white differ by 100.
DISTINCT = 10.0
#: Colours for errors, the preferred first; each must differ from all classes by this much.
ERROR_COLOURS = ("#e6007e", "#ff00ff", "#d7191c", "#0000ff", "#00c8ff", "#ff7f00")
ERROR_DIFFERENCE = 20.0

#: Colours that mean no class.
UNLABELLED = "#ffffff"
CORRECT = "#d1d1d1"
SUPPORT = "#000000"


def differences(colours: Sequence[str], others: Sequence[str]) -> NDArray[np.float64]:
    """CIEDE2000 differences (n, m) of n and m colours (``#rrggbb``, sRGB).

    Reference: Sharma, Wu and Dalal 2005, Color Research & Application 30(1), 21-30.
    """
    from skimage.color import deltaE_ciede2000

    one, two = _lab(colours), _lab(others)
    pairs = np.broadcast_arrays(one[:, None], two[None])
    found: NDArray[np.float64] = deltaE_ciede2000(*pairs)  # type: ignore[no-untyped-call]
    return found


def colour_faults(classes: Sequence[SceneClass]) -> list[str]:
    """Classes whose colour looks like that of unlabelled pixels (white) or of another class, one line each."""
    if not classes:
        return []
    colours = [entry.color for entry in classes]
    from_white, from_others = differences(colours, [UNLABELLED])[:, 0], differences(colours, colours)
    faults = [
        f"{_named(entry)} differs from white, the colour of unlabelled pixels, by {difference:.1f}"
        for entry, difference in zip(classes, from_white, strict=True)
        if difference < DISTINCT
    ]
    for (i, one), (j, two) in combinations(enumerate(classes), 2):
        if from_others[i, j] < DISTINCT:
            faults.append(f"{_named(one)} and {_named(two)} differ by {from_others[i, j]:.1f}")
    return faults


def error_colour(classes: Sequence[SceneClass]) -> str:
    """A colour for wrong pixels that no class has, nor any other pixel of the panel of errors."""
    taken = [*(entry.color for entry in classes), UNLABELLED, CORRECT, SUPPORT]
    levels = ("00", "33", "66", "99", "cc", "ff")
    candidates = [*ERROR_COLOURS, *("#" + "".join(parts) for parts in product(levels, repeat=3))]
    smallest = differences(candidates, taken).min(axis=1)
    preferred = np.flatnonzero(smallest[: len(ERROR_COLOURS)] >= ERROR_DIFFERENCE)
    return candidates[int(preferred[0]) if preferred.size else int(smallest.argmax())]


def rgb(colour: str) -> NDArray[np.float64]:
    """Red, green and blue (3,) in [0, 1] of ``#rrggbb``."""
    return np.frombuffer(bytes.fromhex(colour[1:]), np.uint8) / 255


def _lab(colours: Sequence[str]) -> NDArray[np.float64]:
    from skimage.color import rgb2lab

    found: NDArray[np.float64] = rgb2lab(np.stack([rgb(colour) for colour in colours])[None])[0]
    return found


def _named(entry: SceneClass) -> str:
    return f"{entry.name} ({entry.color})"
