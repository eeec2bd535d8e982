"""The selective scan against a slow loop in float64, with both CPU back ends."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mmrs_bench.models import selective_scan as module
from mmrs_bench.models.kernels import compiled_kernels
from mmrs_bench.models.selective_scan import scan_backend, selective_scan

NAMES = ("u", "delta", "a", "b", "c", "d", "delta_bias")
needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba (extra fast) is absent")


@pytest.fixture(params=[pytest.param("numba", marks=needs_numba), "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each CPU back end; that of numba is skipped without numba."""
    if request.param == "torch":
        monkeypatch.setattr(module, "_numba_scan", lambda: None)
    assert scan_backend("cpu") == request.param
    return str(request.param)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def inputs(
    batch: int = 2, channels: int = 3, states: int = 4, length: int = 5, *, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Arguments like a Mamba's: steps around 0.05 after the softplus, rates -1, -2, ..."""
    random = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    drawn = {
        "u": normal(batch, channels, length),
        "delta": normal(batch, channels, length),
        "a": -torch.arange(1, states + 1, dtype=torch.float64) * (1 + 0.1 * normal(channels, states)),
        "b": normal(batch, states, length),
        "c": normal(batch, states, length),
        "d": normal(channels),
        "delta_bias": normal(channels) - 3,
    }
    return {name: value.to(dtype) for name, value in drawn.items()}


def slow_scan(
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    delta_bias: Tensor | None = None,
    *,
    reverse: bool = False,
) -> Tensor:
    """One place after the other."""
    if delta_bias is not None:
        delta = torch.log1p(torch.exp(delta + delta_bias[:, None]))
    h = torch.zeros(u.shape[0], *a.shape, dtype=u.dtype)
    length = u.shape[2]
    places = {}
    for t in range(length - 1, -1, -1) if reverse else range(length):
        step = delta[:, :, t, None]
        h = torch.exp(step * a) * h + step * b[:, None, :, t] * u[:, :, t, None]
        places[t] = (c[:, None, :, t] * h).sum(2) + d * u[:, :, t]
    return torch.stack([places[t] for t in range(length)], dim=2)


def value_and_gradients(scan: Callable[..., Tensor], arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    leaves = {name: value.detach().requires_grad_() for name, value in arguments.items()}
    y = scan(**leaves)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype)
    gradients = torch.autograd.grad(y, list(leaves.values()), weights)
    return {"y": y.detach(), **dict(zip(leaves, gradients, strict=True))}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Every array within ``tolerance`` of the largest number in it."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].shape == values.shape, name
        error, largest = (found[name].double() - values).abs().max(), values.abs().max()
        assert error <= tolerance * largest, f"{name}: {error:.1e} of {largest:.1e}"


def check(arguments: dict[str, Tensor], tolerance: float = 1e-5, *, reverse: bool = False) -> dict[str, Tensor]:
    """Compare value and gradients with those of the slow scan in float64; return the former."""
    slow, fast = (partial(scan, reverse=reverse) for scan in (slow_scan, selective_scan))
    expected = value_and_gradients(slow, {name: value.double() for name, value in arguments.items()})
    found = value_and_gradients(fast, arguments)
    assert_close(found, expected, tolerance)
    return found


def test_the_slow_scan_equals_a_loop_over_numbers() -> None:
    x = inputs(batch=1, channels=1, states=2, length=3)
    u, before, a, b, c, d, bias = (x[name].squeeze().tolist() for name in NAMES)
    delta = [math.log(1 + math.exp(value + bias)) for value in before]
    h = [0.0, 0.0]
    expected = []
    for t in range(3):
        h = [math.exp(delta[t] * a[n]) * h[n] + delta[t] * b[n][t] * u[t] for n in range(2)]
        expected.append(sum(c[n][t] * h[n] for n in range(2)) + d * u[t])
    assert slow_scan(**x).flatten().tolist() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 121, 1024])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_value_and_gradients_equal_those_of_the_slow_scan(
    backend: str, length: int, reverse: bool, dtype: torch.dtype, tolerance: float
) -> None:
    found = check(inputs(states=16, length=length, dtype=dtype), tolerance, reverse=reverse)
    assert all(values.dtype == dtype for values in found.values())


def test_a_reverse_scan_is_a_scan_of_the_reversed_sequence(backend: str) -> None:
    arguments = inputs()
    reversed_places = {name: value.flip(2) if value.dim() == 3 else value for name, value in arguments.items()}
    torch.testing.assert_close(
        selective_scan(**arguments, reverse=True), selective_scan(**reversed_places).flip(2), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize("states", [1, 5, 8, 17, 33])
@pytest.mark.parametrize(("batch", "channels"), [(1, 1), (5, 3)])
def test_numbers_of_states_need_not_fill_the_lanes(backend: str, batch: int, channels: int, states: int) -> None:
    check(inputs(batch, channels, states, 11, dtype=torch.float32))


def test_step_sizes_can_have_any_order_of_magnitude(backend: str) -> None:
    """From states that never decay to states that decay within one place; also growing states."""
    arguments = inputs(states=16, length=30, dtype=torch.float32)
    arguments["delta"] = (arguments["delta"] - 3).exp() * torch.logspace(-5, 3, 30)
    arguments["a"][0] *= -1e-5
    del arguments["delta_bias"]
    check(arguments)


def test_the_softplus_of_the_steps_is_accurate_for_all_numbers(backend: str) -> None:
    """One place, u = b = c = 1 and d = 0: y is the step, and the gradient of delta the slope."""
    x = torch.linspace(-60, 60, 4001)
    one, zero = torch.ones(1, len(x), 1), torch.zeros(len(x))
    delta = x[None, :, None].clone().requires_grad_()
    bias = torch.full_like(zero, -0.5).requires_grad_()
    step = selective_scan(one, delta, -torch.ones(len(x), 1), one[:, :1], one[:, :1], zero, bias)
    step.sum().backward()
    before = (x - 0.5).double()
    expected = torch.logaddexp(before, torch.zeros_like(before))
    torch.testing.assert_close(step.flatten().double(), expected, rtol=4e-6, atol=1e-18)
    assert delta.grad is not None
    assert bias.grad is not None
    torch.testing.assert_close(delta.grad.flatten().double(), before.sigmoid(), rtol=4e-6, atol=1e-18)
    assert torch.equal(bias.grad, delta.grad.flatten())


def test_arguments_and_gradients_can_be_strided_views(backend: str) -> None:
    plain = inputs(length=6)
    views = {
        "u": plain["u"].transpose(1, 2).contiguous().transpose(1, 2),
        "delta": torch.cat([plain["delta"]] * 2, dim=1)[:, 3:],
        "a": plain["a"][:1].expand(3, -1),
        "b": torch.stack([plain["b"], plain["c"]], dim=-1)[..., 0],
        "c": plain["c"].permute(2, 0, 1).contiguous().permute(1, 2, 0),
        "d": plain["d"].repeat_interleave(2)[::2],
        "delta_bias": plain["delta_bias"].repeat_interleave(2)[::2],
    }
    assert not any(view.is_contiguous() for view in views.values())
    check(views, 1e-12)
    gradients = []
    for scan in (selective_scan, slow_scan):
        u = plain["u"].clone().requires_grad_()
        scan(u, *(plain[name] for name in NAMES[1:])).sum().backward()  # the gradient of y is one number, expanded
        gradients.append(u.grad)
    torch.testing.assert_close(*gradients)


def test_no_skip_equals_a_skip_of_zero(backend: str) -> None:
    arguments = inputs()
    d = arguments.pop("d")
    torch.testing.assert_close(selective_scan(**arguments), slow_scan(**arguments, d=torch.zeros_like(d)))


def test_an_empty_batch_is_accepted(backend: str) -> None:
    found = value_and_gradients(selective_scan, inputs(batch=0))
    assert found["y"].shape == (0, 3, 5)
    assert not found["a"].any()


def test_gradients_pass_gradcheck(backend: str) -> None:
    leaves = [value.requires_grad_() for value in inputs(batch=2, channels=2, states=3, length=4).values()]
    for reverse in (False, True):
        assert torch.autograd.gradcheck(partial(selective_scan, reverse=reverse), leaves, nondet_tol=0.0)


def test_the_operators_pass_opcheck(backend: str) -> None:
    arguments = tuple(inputs(length=3).values())
    leaves = tuple(value.clone().requires_grad_() for value in arguments)
    for reverse in (False, True):
        torch.library.opcheck(module._scan, (*leaves, reverse))
        torch.library.opcheck(module._scan_backward, (arguments[0], *arguments, reverse))


def test_autocast_does_not_change_the_result(backend: str) -> None:
    arguments = inputs(states=16, length=121, dtype=torch.float32)
    plain = value_and_gradients(selective_scan, arguments)
    with torch.autocast("cpu", torch.bfloat16):
        cast = value_and_gradients(selective_scan, arguments)
    assert all(torch.equal(cast[name], values) for name, values in plain.items())


def test_bfloat16_is_computed_in_float32(backend: str) -> None:
    rough = inputs(states=16, length=121, dtype=torch.bfloat16)
    fine = value_and_gradients(selective_scan, {name: value.float() for name, value in rough.items()})
    found = value_and_gradients(selective_scan, rough)
    assert all(values.dtype == torch.bfloat16 for values in found.values())
    # The gradient of y is rounded too, so only the value is equal to the last bit.
    assert torch.equal(found["y"], fine["y"].bfloat16())
    assert_close(found, {name: values.double() for name, values in fine.items()}, 0.01)


def test_mixed_types_are_computed_in_float64(backend: str) -> None:
    arguments = inputs()
    arguments["u"] = arguments["u"].float()
    y = selective_scan(**arguments)
    assert y.dtype == torch.float32
    expected = slow_scan(**{**arguments, "u": arguments["u"].double()})
    assert torch.equal(y, selective_scan(**{**arguments, "u": arguments["u"].double()}).float())
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=1e-6)


def test_forward_and_backward_compile_to_one_graph(backend: str) -> None:
    def model(**arguments: Tensor) -> Tensor:
        return selective_scan(**arguments).tanh()

    arguments = inputs(dtype=torch.float32)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    expected = value_and_gradients(model, arguments)
    for name, values in value_and_gradients(compiled, arguments).items():
        torch.testing.assert_close(values, expected[name])


@pytest.mark.parametrize("count", [2, 3, 7])
def test_results_do_not_depend_on_the_call_and_the_number_of_threads(
    backend: str, threads: Callable[[int], None], count: int
) -> None:
    arguments = inputs(batch=5, channels=7, states=16, length=40, dtype=torch.float32)
    threads(1)
    first, again = (value_and_gradients(selective_scan, arguments) for _ in range(2))
    threads(count)
    shared = value_and_gradients(selective_scan, arguments)
    for name, values in first.items():
        assert torch.equal(values, again[name]), name
        if backend == "numba":
            assert torch.equal(values, shared[name]), name
        else:
            torch.testing.assert_close(values, shared[name])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["u", "delta", "b", "c", "d"])
def test_arguments_that_are_not_finite_give_results_that_are_not_finite(backend: str, name: str, bad: float) -> None:
    arguments = inputs(dtype=torch.float32)
    arguments[name].view(-1)[0] = bad
    expected = slow_scan(**arguments)
    assert not expected.isfinite().all()
    assert torch.equal(selective_scan(**arguments).isfinite(), expected.isfinite())


def test_rates_that_are_nan_give_nan(backend: str) -> None:
    arguments = inputs(dtype=torch.float32)
    arguments["a"][1, 2] = math.nan
    assert torch.equal(selective_scan(**arguments).isnan(), slow_scan(**arguments).isnan())


def test_overflow_gives_infinity(backend: str) -> None:
    arguments = inputs(length=3, dtype=torch.float32)
    arguments["a"] = arguments["a"].abs() * 1e4
    assert not selective_scan(**arguments)[:, :, -1].isfinite().any()


@pytest.mark.parametrize(
    ("package", "probe"),
    [
        ("numba", partial(compiled_kernels.__wrapped__, "_scan_numba")),
        ("mamba_ssm", module._cuda_scan.__wrapped__),
    ],
)
def test_back_ends_whose_package_is_missing_are_not_used(
    package: str, probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert probe() is None


def test_the_kernel_of_mamba_ssm_gets_float32_tensors_and_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def stand_in(*tensors: Tensor, delta_bias: Tensor | None, delta_softplus: bool) -> Tensor:
        assert delta_softplus == (delta_bias is not None)
        seen.extend(tensors if delta_bias is None else (*tensors, delta_bias))
        return slow_scan(*tensors, delta_bias)

    monkeypatch.setattr(module, "_cuda_scan", lambda: stand_in)
    monkeypatch.setattr(Tensor, "is_cuda", True)
    monkeypatch.setattr(module, "scan_backend", lambda device: "mamba-ssm")
    arguments = inputs(dtype=torch.bfloat16)
    y = selective_scan(**arguments)
    assert all(torch.equal(tensor, arguments[name].float()) for name, tensor in zip(NAMES, seen, strict=True))
    assert y.dtype == torch.bfloat16
    selective_scan(**inputs(dtype=torch.float64))
    assert len(seen) == len(NAMES)
    plain = inputs(dtype=torch.float32)
    assert torch.equal(selective_scan(**plain, reverse=True), slow_scan(**plain, reverse=True))
    del plain["delta_bias"]
    assert torch.equal(selective_scan(**plain), slow_scan(**plain))


def test_the_back_end_for_cuda_is_mamba_ssm_if_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_cuda_scan", lambda: None)
    assert scan_backend("cuda") == "torch"
    monkeypatch.setattr(module, "_cuda_scan", lambda: slow_scan)
    assert scan_backend(torch.device("cuda", 0)) == "mamba-ssm"
    assert scan_backend("cpu") != "mamba-ssm"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_value_and_gradients_on_cuda(dtype: torch.dtype, tolerance: float) -> None:
    arguments = inputs(states=16, length=121, dtype=dtype)
    expected = value_and_gradients(slow_scan, {name: value.double() for name, value in arguments.items()})
    found = value_and_gradients(
        lambda **on_gpu: selective_scan(**on_gpu).cpu(), {name: value.cuda() for name, value in arguments.items()}
    )
    assert_close({name: values.cpu() for name, values in found.items()}, expected, tolerance)


def test_numba_is_not_imported_with_the_module() -> None:
    code = "import sys, mmrs_bench.models.selective_scan; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("u", lambda x: x[0], ValueError, r"u has shape \(3, 5\); expected u and delta \(batch, channels, length\)"),
        ("delta", lambda x: x[:, :, 1:], ValueError, r"delta has shape \(2, 3, 4\)"),
        ("a", lambda x: x[:2], ValueError, r"a has shape \(2, 4\)"),
        ("b", lambda x: x.transpose(1, 2), ValueError, r"b has shape \(2, 5, 4\)"),
        ("c", lambda x: x[:1], ValueError, r"c has shape \(1, 4, 5\)"),
        ("d", lambda x: x[:, None], ValueError, r"d has shape \(3, 1\)"),
        ("b", lambda x: x.long(), TypeError, r"b holds torch.int64; convert it to float32 or float64"),
        ("u", lambda x: x.to(torch.complex64), TypeError, r"u holds torch.complex64"),
        ("c", lambda x: x.to("meta"), ValueError, r"c is on meta, u on cpu; move them to one device"),
    ],
)
def test_arguments_of_wrong_shape_type_or_device_are_refused(
    name: str, change: Callable[[Tensor], Tensor], error: type[Exception], message: str
) -> None:
    arguments = inputs()
    arguments[name] = change(arguments[name])
    with pytest.raises(error, match=f"^selective_scan: {message}") as caught:
        selective_scan(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", ["channels", "states", "length"])
def test_sizes_of_zero_are_refused(size: str) -> None:
    with pytest.raises(ValueError, match=r"^selective_scan: .*\b0\b.*; each must be at least 1$"):
        selective_scan(**inputs(**{size: 0}))
