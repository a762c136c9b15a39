"""float32 products by the quicker library: as exact, only inside the update, and only where that is known to hold."""

import pytest
import torch

from gruppo.training import products
from gruppo.training.passes import TreePasses
from gruppo.training.products import available, quick_products, usual_products
from models import tiny

CPU = torch.device("cpu")


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor of AMD's."""
    monkeypatch.setattr(products, "available", lambda: True)


@pytest.mark.skipif(not available(), reason="no AMD processor with AVX-512, or its oneDNN gives no float32")
@pytest.mark.parametrize("sizes", [(2048, 64, 144), (300, 512, 1536), (77, 1000, 33), (16, 16, 17), (1, 512, 4096)])
def test_products_are_as_exact_as_torchs_own(sizes: tuple[int, int, int]):
    rows, inner, columns = sizes
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(rows, inner, generator=generator)
    weight, bias = torch.randn(columns, inner, generator=generator), torch.randn(columns, generator=generator)
    grad = torch.randn(rows, columns, generator=generator)
    for product, exact in (
        (lambda: torch.nn.functional.linear(left, weight, bias), left.double() @ weight.double().T + bias),
        (lambda: grad @ weight, grad.double() @ weight.double()),
        (lambda: grad.T @ left, grad.double().T @ left.double()),
    ):
        with quick_products(CPU):
            found = product()
        assert (found - exact).norm() / exact.norm() < 6e-7  # MKL's is up to 3e-7, bfloat16's 3e-3


def test_torch_is_left_as_it_was(on: None):
    assert torch.get_float32_matmul_precision() == "highest"
    with quick_products(CPU):
        assert torch.get_float32_matmul_precision() == "medium"
        with usual_products():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
        with quick_products(CPU):
            assert torch.get_float32_matmul_precision() == "medium"
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(KeyError), quick_products(CPU):
        raise KeyError
    assert torch.get_float32_matmul_precision() == "highest"


def test_what_a_user_has_set_stays(on: None):
    torch.set_float32_matmul_precision("high")
    try:
        with quick_products(CPU), usual_products():
            assert torch.get_float32_matmul_precision() == "high"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_on_a_gpu_nothing_is_changed(on: None):
    """There the same switch would round products to TF32."""
    with quick_products(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "highest"


def test_the_passes_of_an_update_use_them(on: None):
    with TreePasses(tiny(), 60).ready():
        assert torch.get_float32_matmul_precision() == "medium"
    assert torch.get_float32_matmul_precision() == "highest"


def test_other_processors_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(products, "_amd", lambda: False)
    assert not available.__wrapped__()
    monkeypatch.setattr(products, "_amd", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not available.__wrapped__()


def test_a_library_that_rounds_to_bfloat16_is_found_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(products, "_amd", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    rounded = lambda left, right: (left.bfloat16() @ right.bfloat16()).float()  # noqa: E731
    monkeypatch.setattr(products, "_multiplied", rounded)
    assert not available.__wrapped__()
    assert torch.get_float32_matmul_precision() == "highest"
