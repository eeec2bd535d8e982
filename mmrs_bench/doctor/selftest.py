"""Self-tests: one training step of every LightningModule, and the kernels, on a device and compared with the CPU.

Training steps run as in a cell, in deterministic mode.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.doctor.modules import SAMPLES, TINY_MODULES, TinyModule, tiny_batch
from mmrs_bench.doctor.part import Part, make_table
from mmrs_bench.evaluation.report.tables import Column, Value
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit import training
from mmrs_bench.models.attention import attend
from mmrs_bench.models.selective_scan import scan_backend, selective_scan
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.loader import BatchSampler, PixelDataset, PixelLoader, ignore_loader_warnings
from mmrs_bench.scenes.windows import WindowGatherer, build_canvas
from mmrs_bench.texts import one_line

#: Largest norm of a difference, as a share of the norm.
LIMIT = 1e-3
OK, FAILED = "ok", "FAILED"

Row = dict[str, Value]


class Check(NamedTuple):
    """A check of a module: its key and heading, and a function that returns the fault or a difference in 0..LIMIT."""

    key: str
    title: str
    run: Callable[[], str | float]


def check_modules(device: str, folder: Path) -> Part:
    """One training step of every module.

    Args:
        device: ``cpu`` or ``cuda``.
        folder: An empty folder for the trainings.
    """
    rows, failures = [], []
    for number, tiny in enumerate(TINY_MODULES):
        trial = _Trial(tiny, device, folder / str(number))
        row: Row = {"module": tiny.name, "title": tiny.title}
        for check in trial.checks():
            value = _checked(check.run)
            row[check.key] = _shown(value)
            if isinstance(value, str) and value:
                failures.append(f"{tiny.name} ({tiny.title}): {check.title}: {value}")
                break
        rows.append(row)
    columns = [Column("module", "module", fixed=True), Column("title", "part of"), Column("step", "step")]
    columns += [Column("again", "repeated"), Column("bf16", "bfloat16")]
    if device != "cpu":
        columns += [Column("output", "output vs CPU"), Column("gradient", "gradient vs CPU")]
    return Part("modules", make_table(f"Self-test of modules on {device}", columns, rows), failures=tuple(failures))


def check_kernels(device: str) -> Part:
    """Selective scan, attention and window gatherer of a device, against plain implementations on the CPU."""
    scan = scan_backend(device)
    checks = {
        f"selective scan ({scan})": lambda: _scan_difference(device, torch.float32),
        "selective scan in float64": lambda: _scan_difference(device, torch.float64),
        "attention": lambda: _attention_difference(device),
        "windows": lambda: _window_difference(device),
    }
    rows, failures = [], []
    for name, run in checks.items():
        value = _checked(run)
        rows.append({"kernel": name, "difference": _shown(value)})
        if isinstance(value, str):
            failures.append(f"{name} on {device}: {value}")
    columns = (Column("kernel", "kernel", fixed=True), Column("difference", "difference from a plain loop"))
    return Part("kernels", make_table(f"Self-test of kernels on {device}", columns, rows), failures=tuple(failures))


def _checked(run: Callable[[], str | float]) -> str | float:
    """The result of a check; an exception or a difference above `LIMIT` is a fault."""
    try:
        value = run()
    except Exception as error:  # noqa: BLE001 - any exception of the tested code is a finding
        return one_line(f"raised {type(error).__name__}: {error}")
    if isinstance(value, float) and not value <= LIMIT:
        return f"the difference is {value:.2g}, expected at most {LIMIT:g}"
    return value


def _shown(value: str | float) -> str:
    if isinstance(value, str):
        return FAILED if value else OK
    return f"{value:.1e}" if value else "0"


class _Trial:
    """The checks of one module on a device."""

    def __init__(self, tiny: TinyModule, device: str, folder: Path) -> None:
        self._tiny, self._device, self._folder = tiny, device, folder
        self._first: dict[str, Tensor] = {}
        self._sides: tuple[tuple[Tensor, Tensor], ...] = ()

    def checks(self) -> list[Check]:
        found = [
            Check("step", "one step", self._step),
            Check("again", "the step repeated", self._repeat),
            Check("bf16", "one step in bfloat16", self._step_in_bfloat16),
        ]
        if self._device != "cpu":
            found += [
                Check("output", "output", lambda: self._difference(0)),
                Check("gradient", "gradient", lambda: self._difference(1)),
            ]
        return found

    def _step(self) -> str:
        self._first = self._trained("32-true")
        return _not_finite(self._first)

    def _repeat(self) -> str:
        other = self._trained("32-true")
        different = [name for name, tensor in self._first.items() if not torch.equal(tensor, other[name])]
        return f"{len(different)} tensors differ, such as {different[0]}" if different else ""

    def _step_in_bfloat16(self) -> str:
        return _not_finite(self._trained("bf16-mixed"))

    def _built(self, context: RunContext) -> Any:
        return training.initialised(self._tiny.build, context, "doctor")

    def _trained(self, precision: str) -> dict[str, Tensor]:
        """The tensors of the module after one step."""
        execution = ExecutionConfig.of(device=self._device, precision=precision, logger=())
        context = RunContext(0, 0, self._folder, execution)
        module = self._built(context)
        batch = tiny_batch()
        dataset = PixelDataset(np.arange(SAMPLES), add_inputs=lambda _: batch)
        loader = PixelLoader(dataset, sampler=BatchSampler(SAMPLES, batch_size=SAMPLES))
        with warnings.catch_warnings():
            ignore_loader_warnings()
            training.fit(module, training.Loaders(loader), context, stage="self-test", epochs=1)
        return {name: tensor.clone() for name, tensor in module.state_dict().items()}

    def _difference(self, number: int) -> float:
        """Relative difference from the CPU: 0 of the output, 1 of the gradient."""
        if not self._sides:
            module = self._built(RunContext(0, 0, self._folder)).eval()
            generator = torch_generator("doctor", "weights")
            with torch.no_grad():  # some layers start with zeros, which would hide differences
                for parameter in module.parameters():
                    parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
            outcomes = [_outcome(module.to(place), self._tiny, place) for place in ("cpu", self._device)]
            self._sides = tuple(zip(*outcomes, strict=True))
        right, found = self._sides[number]
        return _relative(found, right)


def _outcome(module: Any, tiny: TinyModule, device: str) -> tuple[Tensor, Tensor]:
    """Output and gradient of a module on a device, flat and on the CPU."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # TensorFloat-32 rounds more than the difference that this test looks for.
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        output = tiny.output(module, _moved(tiny_batch(), device))
        weights = torch.randn(output.shape, generator=torch_generator("doctor", "gradient"))
        found = torch.autograd.grad((output * weights.to(device)).sum(), trained, allow_unused=True)
    gradients = [gradient.flatten().cpu() for gradient in found if gradient is not None]
    return output.detach().flatten().cpu(), torch.cat(gradients)


def _moved(value: Any, device: str) -> Any:
    return {name: _moved(part, device) for name, part in value.items()} if isinstance(value, dict) else value.to(device)


def _relative(found: Tensor, right: Tensor) -> float:
    """The norm of a difference as a share of the norm; NaN if a value is not finite."""
    return float((found.double() - right.double()).norm() / right.double().norm().clamp(min=math.ulp(0)))


def _not_finite(tensors: Mapping[str, Tensor]) -> str:
    names = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    return f"{names[0]} has values that are NaN or infinite after the step" if names else ""


def _scan_difference(device: str, dtype: torch.dtype) -> float:
    """Largest relative difference of the outputs and gradients of `selective_scan` from those of a plain loop."""
    batch, channels, states, length = 3, 6, 4, 17
    generator = torch_generator("doctor", "scan")
    shapes = [(batch, channels, length)] * 2 + [(channels, states)] + [(batch, states, length)] * 2 + [(channels,)] * 2
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    values[2] = -values[2].exp()
    differences = []
    for reverse in (False, True):
        scan, plain = (partial(each, reverse=reverse) for each in (selective_scan, _plain_scan))
        found = _with_gradients(scan, [value.to(device, dtype) for value in values])
        expected = _with_gradients(plain, values)
        differences += [_relative(one.cpu(), other) for one, other in zip(found, expected, strict=True)]
    return max(differences)


def _attention_difference(device: str) -> float:
    """Largest relative difference of the outputs and gradients of `attend` with a bias from those of plain products."""
    heads, n = 2, 19
    generator = torch_generator("doctor", "attention")
    packed = torch.randn(3, n, 3 * heads * 12, generator=generator, dtype=torch.float64)
    bias = torch.randn(heads, n, n, generator=generator, dtype=torch.float64)
    found = _with_gradients(lambda x: attend(x, heads, bias.float()), [packed.to(device, torch.float32)])
    expected = _with_gradients(lambda x: _plain_attention(x, heads, bias), [packed])
    return max(_relative(one.cpu(), other) for one, other in zip(found, expected, strict=True))


def _plain_attention(packed: Tensor, heads: int, bias: Tensor) -> Tensor:
    q, k, v = (part.reshape(*part.shape[:2], heads, -1) for part in packed.chunk(3, dim=2))
    scores = torch.einsum("bihe,bjhe->bhij", q, k) / math.sqrt(q.shape[-1]) + bias
    return torch.einsum("bhij,bjhe->bihe", scores.softmax(dim=-1), v).flatten(2)


def _with_gradients(function: Callable[..., Tensor], values: list[Tensor]) -> list[Tensor]:
    inputs = [value.clone().requires_grad_() for value in values]
    y = function(*inputs)
    return [y.detach(), *torch.autograd.grad(y.sin().sum(), inputs)]


def _plain_scan(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, delta_bias: Tensor, *, reverse: bool
) -> Tensor:
    """The recurrence of `selective_scan`, place by place."""
    h, places = torch.zeros(u.shape[0], *a.shape, dtype=u.dtype), []
    steps = functional.softplus(delta + delta_bias[:, None])
    for t in range(u.shape[2])[:: -1 if reverse else 1]:
        step = steps[:, :, t, None]
        h = (step * a).exp() * h + step * u[:, :, t, None] * b[:, None, :, t]
        places.append((h * c[:, None, :, t]).sum(2) + d * u[:, :, t])
    return torch.stack(places[::-1] if reverse else places, dim=2)


def _window_difference(device: str) -> float:
    """Largest difference of gathered windows from cut ones; copies must be exact."""
    side, height, width = 5, 9, 8
    image = np.random.Generator(np.random.PCG64(0)).standard_normal((height, width, 3), dtype=np.float32)
    gatherer = WindowGatherer(build_canvas({"hsi": image}, side), {"hsi": 3}, side, device)
    pixels = torch.arange(height * width)
    found = gatherer.gather(pixels.to(device))["hsi"].cpu()
    padded = np.pad(image, ((side // 2,) * 2, (side // 2,) * 2, (0, 0)), mode="reflect")
    places = [divmod(pixel, width) for pixel in pixels.tolist()]
    cut = np.stack([padded[row : row + side, column : column + side].transpose(2, 0, 1) for row, column in places])
    return float((found - torch.from_numpy(cut)).abs().max())
