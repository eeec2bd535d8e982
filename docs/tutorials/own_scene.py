# %% [markdown]
# # From zero to a leaderboard on your scene
#
# This tutorial starts with arrays and ends with a leaderboard. It needs no download and takes about a minute. It
# simulates the arrays; replace them by your own. Open this file as a notebook (Jupytext, VS Code, PyCharm), or run it:
# `python docs/tutorials/own_scene.py`.

# %%
import tempfile
from pathlib import Path

import numpy as np

import mmrs_bench

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. Your arrays
#
# A scene has one raster per sensor, all on one grid, and a ground truth: 0 for pixels without a label, 1..K for
# classes. Here a 40-band image and a height model of a small town are simulated.

# %%
rng = np.random.default_rng(0)
height, width, bands, classes = 80, 100, 40, 4
blocks = rng.integers(1, classes + 1, (height // 10, width // 10))
truth = np.kron(blocks, np.ones((10, 10), dtype=np.int64))
spectra = rng.normal(size=(classes + 1, bands)).cumsum(axis=1)
heights = np.array([0.0, 0.5, 6.0, 12.0, 0.2])
image = spectra[truth] + rng.normal(scale=2.0, size=(height, width, bands))
surface = heights[truth] + rng.normal(scale=1.5, size=(height, width))
labelled = rng.random((height, width)) < 0.7
np.savez(
    folder / "town.npz",
    hsi=image.astype(np.float32),
    dsm=surface.astype(np.float32)[..., None],
    labels=np.where(labelled, truth, 0).astype(np.uint8),
)

# %% [markdown]
# ## 2. The manifest
#
# The manifest says what the scene is and what its files contain. `data_dir: .` means that the files lie beside it.
# `docs/adding-a-scene.md` lists all fields.

# %%
manifest = folder / "town.yaml"
manifest.write_text("""\
schema: 1
id: my-town
revision: r1
title: My town (tutorial)
height: 80
width: 100
data_dir: .
modalities:
  - name: hsi
    sensor: made up
    bands: 40
    wavelengths_note: none, the tutorial made the spectra up
    rgb_bands: [30, 20, 10]
    parts: [{file: town.npz, key: hsi, axes: hwc}]
  - name: dsm
    sensor: made up
    bands: 1
    parts: [{file: town.npz, key: dsm, axes: hwc}]
ground_truth:
  parts: [{file: town.npz, key: labels, axes: hw}]
classes:
  - {id: 1, name: Meadow, color: "#a6d96a"}
  - {id: 2, name: House, color: "#d7301f"}
  - {id: 3, name: Wood, color: "#1b7837"}
  - {id: 4, name: Road, color: "#636363"}
sources:
  - {file: town.npz, manual: The tutorial writes this file.}
terms: none
citation: none
""")

# %% [markdown]
# A mistake in the manifest or the files is one message that says what to do. `load_scene` checks all of them.

# %%
scene = mmrs_bench.load_scene(manifest)
print({name: picture.shape for name, picture in scene.images.items()}, np.bincount(scene.labels))

# %% [markdown]
# ## 3. The results
#
# `run` computes what is missing: 2 labels per class, 6 support samples (draws), three methods. The budget `smoke` has
# short trainings for a first look; use `quick` for real comparisons and `paper` for publications.

# %%
results = mmrs_bench.run(
    manifest,
    methods=["nearest-prototype", "svm-emp", "cnn"],
    shots=2,
    draws=6,
    budget="smoke",
    results=folder / "results",
)
print(results.leaderboard())

# %% [markdown]
# Everything behind the table is there: one row per record, a paired comparison, the confusion matrix.

# %%
print(results.frame().groupby("method")[["oa", "aa", "kappa"]].mean().round(1))

# %%
print(results.compare("svm-emp", "cnn"))

# %%
figure = results.confusion("svm-emp")

# %% [markdown]
# ## 4. More shots, and a map
#
# The next `run` computes only the new cells.

# %%
results = mmrs_bench.run(
    manifest,
    methods=["nearest-prototype", "svm-emp"],
    shots=[2, 5, 10],
    draws=6,
    budget="smoke",
    results=folder / "results",
)
curves = results.curves()

# %%
sheet = results.select(shots=10).map("svm-emp")
sheet.savefig(folder / "map.png", dpi=100)
