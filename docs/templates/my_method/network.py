"""Networks and LightningModules. b batch, c channels of all modalities, w window side, d width, k classes."""

import torch
from torch import nn
from torch.nn import functional

from mmrs_bench.methods.toolkit.classification import ClassificationModule
from mmrs_bench.methods.toolkit.stage import StageModule


class Encoder(nn.Sequential):
    """From stacked windows (b, c, w, w) to features (b, d, w - 4, w - 4)."""

    def __init__(self, channels, width):
        super().__init__(nn.Conv2d(channels, width, 3), nn.GELU(), nn.Conv2d(width, width, 3), nn.GELU())


class Autoencoder(nn.Module):
    """Restores the pixel in the centre of a window."""

    def __init__(self, channels, width):
        super().__init__()
        self.encoder = Encoder(channels, width)
        self.decoder = nn.Linear(width, channels)

    def forward(self, stacked):
        """From (b, c, w, w) to (b, c)."""
        return self.decoder(self.encoder(stacked).mean(dim=(2, 3)))


class Classifier(nn.Module):
    """Classifies windows by the mean of their features."""

    def __init__(self, channels, classes, width):
        super().__init__()
        self.encoder = Encoder(channels, width)
        self.head = nn.Linear(width, classes)

    def forward(self, windows):
        """From windows (b, c, w, w) by modality to logits (b, k)."""
        return self.head(self.encoder(stack(windows)).mean(dim=(2, 3)))


class Pretraining(StageModule):
    """Hides half of all values and restores the centre pixel."""

    def __init__(self, channels, *, width=32, learning_rate=0.001):
        super().__init__(channels)
        self.save_hyperparameters()
        self.network, self.learning_rate = Autoencoder(sum(channels.values()), width), learning_rate

    def training_step(self, batch, batch_idx):
        """Mean squared error of the restored centre pixels."""
        stacked = stack(self.windows_of(batch))
        centre = stacked[:, :, stacked.shape[2] // 2, stacked.shape[3] // 2]
        loss = functional.mse_loss(self.network(functional.dropout(stacked, 0.5)), centre)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class Training(ClassificationModule):
    """Cross-entropy on the support windows."""

    def __init__(self, channels, num_classes, *, width=32, learning_rate=0.001):
        super().__init__(channels, num_classes)
        self.save_hyperparameters()
        self.network, self.learning_rate = Classifier(sum(channels.values()), num_classes, width), learning_rate

    def configure_optimizers(self):
        """AdamW with a cosine schedule."""
        return self.with_cosine_schedule(torch.optim.AdamW(self.parameters(), lr=self.learning_rate))


def stack(windows):
    """One tensor (b, c, w, w) with the channels of all modalities."""
    return torch.cat(list(windows.values()), dim=1)
