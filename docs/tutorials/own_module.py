# %% [markdown]
# # A Lightning module on the shared data modules
#
# This tutorial trains a module of your own on a scene of the suite, scores it like the leaderboard does, and compares
# it with a module of the suite. It needs no download and takes less than a minute. Open this file as a notebook, or
# run it: `python docs/tutorials/own_module.py`.

# %%
import tempfile
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import nn

import mmrs_bench
from mmrs_bench.methods.cnn.module import CnnModule

# %% [markdown]
# ## 1. The data
#
# A data module is one scene under one protocol: here 5 labels per class, support sample (draw) 0, windows of 11 pixels.
# `query_limit` scores fewer pixels, for speed. Use `mmrs_bench.datamodule("trento", ...)` for a real scene.

# %%
data = mmrs_bench.datamodule("simulated", shots=5, draw=0, window=11, query_limit=1000)
print(data.channels, data.num_classes, data.class_names)

# %% [markdown]
# Loaders are ordinary `DataLoader`s. A batch has the windows of each sensor, and targets where the protocol allows
# them: the training loader has the support, the test loader the query pixels, the prediction loader no targets.

# %%
batch = next(iter(data.train_dataloader()))
print({name: window.shape for name, window in batch["windows"].items()}, batch["target"].shape)


# %% [markdown]
# ## 2. A module
#
# Any `LightningModule` works. This one averages each window's pixels, weighted by a learned mask.


# %%
class CentreNet(L.LightningModule):
    """A linear classifier of weighted window means."""

    def __init__(self, channels: dict[str, int], num_classes: int, window: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.mask = nn.Parameter(torch.zeros(window * window))
        self.head = nn.Linear(sum(channels.values()), num_classes)

    def forward(self, windows: dict[str, torch.Tensor]) -> torch.Tensor:
        stacked = torch.cat(list(windows.values()), dim=1).flatten(2)  # (b, c, n)
        return self.head((stacked * self.mask.softmax(dim=0)).sum(dim=2))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch["windows"]), batch["target"])
        self.log("loss", loss)
        return loss

    def predict_step(self, batch, batch_idx):
        return self(batch["windows"]).argmax(dim=1)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


# %% [markdown]
# ## 3. Train, predict, score
#
# Every trainer option works as in any other project: loggers, callbacks, precision, `strategy="ddp"`.

# %%
folder = Path(tempfile.mkdtemp())
L.seed_everything(0)
module = CentreNet(data.channels, data.num_classes, window=11)
trainer = L.Trainer(max_epochs=60, accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False)
trainer.fit(module, datamodule=data)
predicted = torch.cat(trainer.predict(module, datamodule=data)).numpy()
print("OA of CentreNet:", np.mean(predicted == data.query_targets).round(3))

# %% [markdown]
# A module of the suite is used in the same way. `trainer.test` logs OA, AA and kappa, as in the leaderboard.

# %%
cnn = CnnModule(data.channels, data.num_classes)
trainer = L.Trainer(max_epochs=60, accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False)
trainer.fit(cnn, datamodule=data)
scores = trainer.test(cnn, datamodule=data, verbose=False)
print("CNN:", {name: round(value, 3) for name, value in scores[0].items()})

# %% [markdown]
# ## 4. Save and restore
#
# A checkpoint of a suite's module needs nothing else, and holds only tensors and plain values.

# %%
trainer.save_checkpoint(folder / "cnn.ckpt")
restored = CnnModule.load_from_checkpoint(folder / "cnn.ckpt")
assert trainer.test(restored, datamodule=data, verbose=False) == scores

# %% [markdown]
# To enter your module into the leaderboard, with its draws, records and statistics, wrap it as a method:
# `docs/adding-a-method.md`.
