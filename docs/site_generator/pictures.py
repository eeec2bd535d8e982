"""Pictures of scenes and protocols, which are committed: ``python docs/site_generator/pictures.py`` draws them again.

Only simulated scenes are drawn. The pictures of real scenes belong to their publishers.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from mmrs_bench.scenes.catalogue import load_scene, shipped_names
from mmrs_bench.scenes.pictures.display import pseudo_colour, second_sensor
from mmrs_bench.scenes.scene import Scene
from mmrs_bench.scenes.splits.audit import audit
from mmrs_bench.scenes.splits.split import make_split

IMAGES = Path(__file__).resolve().parents[1] / "images"
#: Largest sides of one panel in pixels, and the gap between two.
_PANEL, _WIDE, _GAP = 300, 640, 6
#: Labels per class and draws of the curve of leakage.
_SHOTS, _DRAWS, _WINDOW = (1, 2, 5, 10, 20), 5, 11
Pixels = NDArray[np.uint8]


def simulated_scenes() -> list[str]:
    """Names of the simulated scenes."""
    return [name for name in shipped_names() if name.startswith("sim")]


def scene_picture(scene: Scene) -> Image.Image:
    """Pseudo-colours, second sensor and ground truth; below each other if the scene is wide."""
    images = [picture.image for picture in (pseudo_colour(scene), second_sensor(scene)) if picture]
    panels = [*((image * 255).round().astype(np.uint8) for image in images), _truth(scene)]
    wide = scene.width > 2 * scene.height
    drawn = [_fitted(panel, _WIDE if wide else _PANEL) for panel in panels]
    width, height = drawn[0].size
    steps = [(0, height + _GAP) if wide else (width + _GAP, 0)] * len(drawn)
    size = (width + steps[0][0] * (len(drawn) - 1), height + steps[0][1] * (len(drawn) - 1))
    sheet = Image.new("RGB", size, "white")
    for position, panel in enumerate(drawn):
        sheet.paste(panel, (position * steps[0][0], position * steps[0][1]))
    return sheet.quantize(128, dither=Image.Dither.NONE)


def _truth(scene: Scene) -> Pixels:
    """The ground truth in the classes' colours; pixels without a label are white."""
    colours = ["#ffffff", *(entry.color for entry in scene.manifest.classes)]
    return np.array([ImageColor.getrgb(colour) for colour in colours], dtype=np.uint8)[scene.ground_truth]


def _fitted(pixels: Pixels, side: int) -> Image.Image:
    """An image whose longer side has ``side`` pixels; small scenes are enlarged without smoothing."""
    image = Image.fromarray(pixels)
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)


def leakage_rows(scene: Scene) -> list[dict[str, float | int | str]]:
    """The leakage audit of the scene over shots, mean of draws, in percent."""
    rows: list[dict[str, float | int | str]] = []
    for split in ("random-v1", "block-v1"):
        for shots in _SHOTS:
            audits = [
                audit(scene, make_split(scene, split, shots=shots, draw=draw, window=_WINDOW)) for draw in range(_DRAWS)
            ]
            means = np.mean(audits, axis=0) * 100
            names = audits[0]._fields
            rows.append(
                {"split": split, "shots": shots} | {n: round(float(m), 1) for n, m in zip(names, means, strict=True)}
            )
    return rows


def write_leakage(folder: Path) -> None:
    """Write the curve of leakage with its numbers, and the map of support windows."""
    scene = load_scene("simulated")
    rows = leakage_rows(scene)
    with (folder / "leakage.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    _curve(rows, folder / "leakage.png")
    _window_map(scene, folder / "windows.png")


def _curve(rows: list[dict[str, float | int | str]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    styles = {"random-v1": ("#d55e00", "o-"), "block-v1": ("#0072b2", "s--")}
    texts = {"shared_window": "shared window", "same_component": "same polygon"}
    for split, (colour, style) in styles.items():
        for column, alpha in (("shared_window", 1.0), ("same_component", 0.4)):
            chosen = [row for row in rows if row["split"] == split]
            values = [float(row[column]) for row in chosen]
            label = f"{split}: {texts[column]}"
            axes.plot([str(row["shots"]) for row in chosen], values, style, color=colour, alpha=alpha, label=label)
    axes.set(xlabel="labels per class", ylabel="query pixels, %", ylim=(-3, 103))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="center right")
    axes.set_title(f"SIMULATED · window {_WINDOW} · mean of {_DRAWS} draws", fontsize=9, loc="left")
    figure.savefig(path, dpi=110)


def _window_map(scene: Scene, path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(7.2, 3.1), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("random-v1", "block-v1"), strict=True):
        split = make_split(scene, name, shots=5, draw=0, window=_WINDOW)  # type: ignore[arg-type]
        state = np.full(scene.height * scene.width, 0.93)
        state[split.query] = 0.6
        axes.imshow(state.reshape(scene.height, scene.width), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        for pixel in split.support:
            row, column = divmod(int(pixel), scene.width)
            corner, half = (column - _WINDOW / 2, row - _WINDOW / 2), _WINDOW
            axes.add_patch(Rectangle(corner, half, half, facecolor="#d55e0066", edgecolor="#d55e00", linewidth=0.8))
        axes.set(title=f"{name}: windows of the support, query in grey", xticks=[], yticks=[])
        axes.title.set_fontsize(8)
    figure.suptitle("SIMULATED · 5 labels per class · draw 0", fontsize=9)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Draw all pictures."""
    for name in simulated_scenes():
        scene_picture(load_scene(name)).save(IMAGES / "scenes" / f"{name}.png", optimize=True)
    write_leakage(IMAGES / "concepts")


if __name__ == "__main__":
    main()
