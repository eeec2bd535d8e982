"""Batch normalisation whose statistics are those of the whole batch in distributed training, on CPUs too.

``torch.nn.SyncBatchNorm``, to which a trainer's ``sync_batchnorm`` converts these layers, only works on accelerators.

In training, a single value per channel has no variance: it is normalised with the running statistics.
"""

from __future__ import annotations

from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


class _BatchNormAcrossProcesses(_BatchNorm):
    """With one process, or in evaluation mode, torch's batch normalisation."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, ...) -> (b, c, ...). All processes have parts of one size."""
        if not self.training or not distributed.is_available() or not distributed.is_initialized():
            if self.training and x.numel() == x.shape[1]:
                return functional.batch_norm(
                    x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
                )
            return super().forward(x)
        others = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        mean = _mean_of_processes(x.float().mean(others))
        centred = x.float() - mean.view(shape)
        variance = _mean_of_processes(centred.square().mean(others))
        self._update_running_statistics(mean.detach(), variance.detach(), x.numel() // x.shape[1])
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(x.dtype)

    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        total = count * distributed.get_world_size()
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (total / max(total - 1, 1)), momentum)


def _mean_of_processes(values: Tensor) -> Tensor:
    from torch.distributed.nn.functional import all_reduce  # absent in builds without distributed training

    total: Tensor = all_reduce(values)  # type: ignore[no-untyped-call]
    return total / distributed.get_world_size()


class BatchNorm1d(_BatchNormAcrossProcesses, nn.BatchNorm1d):
    """Of (b, c) or (b, c, n)."""


class BatchNorm2d(_BatchNormAcrossProcesses, nn.BatchNorm2d):
    """Of (b, c, h, w)."""


class BatchNorm3d(_BatchNormAcrossProcesses, nn.BatchNorm3d):
    """Of (b, c, d, h, w)."""
