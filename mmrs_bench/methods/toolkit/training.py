"""Training and prediction with Lightning, as all methods do it.

Runs are deterministic, log to the cell's folder, report progress, and stop at a loss that is not finite. Afterwards the
random state, threads, deterministic mode, log level and signal handlers of the process are as before.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from mmrs_bench.config import torch_threads
from mmrs_bench.errors import TrainingError
from mmrs_bench.io import disk_errors
from mmrs_bench.methods.base import Prediction, RunContext, Trial
from mmrs_bench.methods.toolkit.checkpoints import usable_checkpoint
from mmrs_bench.methods.toolkit.trainers import finish_logs, for_children, make_trainer, own_processes
from mmrs_bench.randomness import derive_seed
from mmrs_bench.scenes.loader import BatchSampler, PixelLoader
from mmrs_bench.scenes.scene import FloatArray, IntArray

ModuleT = TypeVar("ModuleT", bound=torch.nn.Module)

#: A resumable training writes about this many checkpoints.
CHECKPOINTS = 20

#: Warnings that are not shown, as regular expressions of their beginnings.
IGNORED_WARNINGS = (
    r"GPU available but not used",  # the device is a setting
    r"The `srun` command is available",  # every cell is one process, on Slurm clusters too
    r"Checkpoint directory .* exists and is not empty",  # the training is resumed
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # raised by Lightning's own code
)


class Loaders(NamedTuple):
    """Loaders of training and validation batches; ``validate`` is only used for a validation metric."""

    train: PixelLoader
    validate: PixelLoader | None = None


def initialised(build: Callable[[], ModuleT], context: RunContext, purpose: str) -> ModuleT:
    """Build a module whose initial values depend only on seed, draw and ``purpose``.

    Args:
        build: Builds the module on the CPU.
        context: Provides seed and draw.
        purpose: Name of the module within its method (``cnn``, ``decoder``).
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed("initialise", purpose, context.draw, context.seed))
        return build()


def fit(
    module: L.LightningModule,
    loaders: Loaders,
    context: RunContext,
    *,
    stage: str,
    epochs: int,
    maximise: str | None = None,
    validate: bool = False,
    resumable: bool = False,
) -> None:
    """Train a module in place; it ends on the CPU in evaluation mode.

    Args:
        module: Its ``training_step`` returns the loss.
        loaders: Training and validation batches.
        context: Device, precision, threads, seed, folder and progress.
        stage: Name of the stage in progress, logs, checkpoints and errors (``pretraining``, ``training``).
        epochs: Passes over the training loader.
        maximise: A logged validation metric. The parameters of the first epoch with its largest value are kept; None
            keeps those of the last epoch.
        validate: Validate before the first and after every epoch although no metric is maximised.
        resumable: Write about `CHECKPOINTS` checkpoints to the cell's folder, and resume from the last one. An
            interrupted training ends with the same parameters as an uninterrupted one. A checkpoint that cannot be
            read is set aside, and the training starts again. Such a training runs on as many processes as the
            context says (``devices``); they report no progress.

    Raises:
        BenchError: If checkpoints or logs cannot be written.
        TrainingError: If a loss is NaN or infinite.
        KeyboardInterrupt: If the user presses Ctrl-C.
    """
    devices = context.execution.devices if resumable else 1
    callbacks: list[Callback] = [_Monitor(context if devices == 1 else for_children(context), stage)]
    resume_from = None
    if maximise is not None:
        callbacks.append(_BestEpoch(maximise))
    if context.trial is not None:
        callbacks.append(_Stopwatch(context.trial))
    if resumable:
        folder = context.work_dir / "checkpoints" / stage
        callbacks.append(
            ModelCheckpoint(
                folder,
                filename="last",
                every_n_epochs=max(1, epochs // CHECKPOINTS),
                save_top_k=1,
                enable_version_counter=False,
            )
        )
        resume_from = usable_checkpoint(folder / "last.ckpt")
    with _isolated(context), disk_errors(context.work_dir), _quiet_log_threads(), _divided(loaders.train, devices):
        trainer = make_trainer(
            context,
            stage,
            callbacks,
            devices=devices,
            logs=True,
            max_epochs=epochs,
            enable_checkpointing=resumable,
            limit_val_batches=0 if maximise is None and not validate else 1.0,
            num_sanity_val_steps=-1 if validate else 0,
        )
        # Our own checkpoint holds only tensors and plain values, so it loads without unpickling code.
        options = {"ckpt_path": resume_from, "weights_only": True} if resume_from else {}
        with own_processes():
            _interruptible(lambda: trainer.fit(module, *loaders, **cast(Any, options)))
        finish_logs(trainer)
    module.cpu().eval()
    module.trainer = None  # which holds loaders and logs
    context.progress(stage, 1.0)


def predict(
    module: L.LightningModule, loader: PixelLoader, context: RunContext, *, callbacks: Sequence[Callback] = ()
) -> IntArray:
    """Classify pixels.

    Args:
        module: Its ``predict_step`` returns the targets (b,) of a batch.
        loader: Batches of n pixels.
        context: Device, precision, threads and progress.
        callbacks: Further callbacks of the trainer.

    Returns:
        Targets (n,) int64.
    """
    return _predict(module, loader, context, callbacks).targets


def predict_with_confidence(
    module: L.LightningModule, loader: PixelLoader, context: RunContext, *, callbacks: Sequence[Callback] = ()
) -> Prediction:
    """`predict`, and the confidences of a module that can return them (see `ClassificationModule.with_confidence`)."""
    module.with_confidence = True  # type: ignore[assignment]
    try:
        return _predict(module, loader, context, callbacks)
    finally:
        del module.with_confidence


def _predict(
    module: L.LightningModule, loader: PixelLoader, context: RunContext, callbacks: Sequence[Callback]
) -> Prediction:
    count = len(loader.dataset)  # type: ignore[arg-type]
    collector = _PredictionCollector(count)
    if count > 0:
        with _isolated(context):
            used = [_Monitor(context, "prediction"), collector, *callbacks]
            trainer = make_trainer(context, "prediction", used, enable_checkpointing=False)
            _interruptible(lambda: trainer.predict(module, loader, return_predictions=False))
        module.cpu()
        module.trainer = None
    return Prediction(collector.targets, collector.confidence)


def check_finite(stage: str, losses: Mapping[str, torch.Tensor], step: int) -> None:
    """Raise an error if a loss is not finite.

    Args:
        stage: Name of the training stage.
        losses: Scalars by name, such as one per modality.
        step: Number of the optimiser step.

    Raises:
        TrainingError: If a loss is NaN or infinite; it names stage, loss and step.
    """
    for name, loss in losses.items():
        if not torch.isfinite(loss).all():
            raise TrainingError(
                f"{stage}: {name} is {float(loss.detach())} at step {step}; lower the learning rate, or check the "
                "images for values far outside the range of the rest"
            )


@contextmanager
def _divided(loader: PixelLoader, devices: int) -> Iterator[None]:
    """Divide the batches over processes, so that each step sees as many samples as in one process (rounded up)."""
    sampler = cast(BatchSampler, loader.sampler)
    whole = sampler.batch_size
    sampler.batch_size = -(-whole // devices)
    try:
        yield
    finally:
        sampler.batch_size = whole


def _interruptible(run: Callable[[], Any]) -> Any:
    """Call ``run``; Ctrl-C raises KeyboardInterrupt, where Lightning would exit and ignore further interrupts."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        return run()
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _isolated(context: RunContext) -> Iterator[None]:
    """Set threads and log level, and restore the state of the process afterwards."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    deterministic, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    log.setLevel(logging.WARNING)
    # In deterministic mode torch fills new memory with NaN. On a CPU that takes an eighth of the training time of
    # small networks, and no code here reads uninitialised memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        random = torch.random.fork_rng(devices=range(torch.cuda.device_count()))
        with torch_threads(context.execution.threads), random, warnings.catch_warnings():
            for message in IGNORED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = benchmark
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        log.setLevel(level)


@contextmanager
def _quiet_log_threads() -> Iterator[None]:
    """Print no traceback if TensorBoard's thread cannot write; its next call in the training raises the error."""
    before = threading.excepthook

    def print_others(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, OSError):
            before(args)

    threading.excepthook = print_others
    try:
        yield
    finally:
        threading.excepthook = before


class _Monitor(Callback):
    """Seeds every epoch, reports progress, and stops at a loss that is not finite."""

    def __init__(self, context: RunContext, stage: str) -> None:
        self._context, self._stage = context, stage

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # One seed per epoch, so that a resumed training draws the same numbers as an uninterrupted one.
        context, rank = self._context, (trainer.global_rank,) if trainer.global_rank else ()
        torch.manual_seed(derive_seed("train", self._stage, trainer.current_epoch, context.draw, context.seed, *rank))

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        check_finite(self._stage, {"loss": loss}, trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        epochs_done = trainer.current_epoch + (batch_idx + 1) / int(trainer.num_training_batches)
        self._context.progress(self._stage, epochs_done / cast(int, trainer.max_epochs))

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._context.progress(self._stage, (batch_idx + 1) / int(trainer.num_predict_batches[0]))


class _Stopwatch(Callback):
    """Stops a training after the seconds of a trial, and adds the expected time of its other steps to the trial."""

    #: Steps that are not measured, because the first ones are slower.
    _WARM_UP = 3

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._steps = 0
        self._start = self._validation_start = 0.0
        self._validations: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._steps += 1
        now = time.perf_counter()
        if self._steps <= self._WARM_UP:
            self._start = now
        elif now - self._start >= self._trial.seconds and not trainer.should_stop:
            trainer.should_stop = True
            epochs = cast(int, trainer.max_epochs)
            steps = epochs * int(trainer.num_training_batches) - self._steps
            self._trial.left_out += steps * (now - self._start) / (self._steps - self._WARM_UP)
            # Validations in the measured time count as steps already.
            if self._validations and trainer.current_epoch == 0:
                self._trial.left_out += epochs * self._validations[-1]

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validations.append(time.perf_counter() - self._validation_start)


class _PredictionCollector(Callback):
    """Writes the targets of all batches into one array (n,) int64, and the confidences, if any, into another one.

    Lightning would keep one small tensor per batch, which fragments the heap (about 3 KB per pixel).
    """

    def __init__(self, count: int) -> None:
        self.targets: IntArray = np.empty(count, np.int64)
        self.confidence: FloatArray | None = None
        self._collected = 0

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        targets, confidence = outputs if isinstance(outputs, tuple) else (outputs, None)
        part = slice(self._collected, self._collected + len(targets))
        self.targets[part] = targets.cpu().numpy()
        if confidence is not None:
            if self.confidence is None:
                self.confidence = np.empty(len(self.targets), np.float32)
            self.confidence[part] = confidence.float().cpu().numpy()
        self._collected = part.stop


class _BestEpoch(Callback):
    """Restores the parameters of the first epoch with the largest value of a validation metric."""

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._value = -float("inf")
        self._parameters: dict[str, torch.Tensor] = {}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        value = float(trainer.callback_metrics[self._metric])
        if value > self._value:
            self._value = value
            self._parameters = {name: tensor.detach().clone() for name, tensor in pl_module.state_dict().items()}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._parameters:  # none if a trial ended before the first validation
            pl_module.load_state_dict(self._parameters)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self._value, "parameters": self._parameters}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._value, self._parameters = state_dict["value"], dict(state_dict["parameters"])
