"""Options of the test suite."""

import pytest

from gp_response.kernels.compiled import library


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--keops-all", action="store_true", help="compile and check every kernel with KeOps, not a few")


@pytest.fixture(params=["compiled", "torch"])
def way(request, monkeypatch):
    """How blocks of a kernel are evaluated: by the compiled code, and as where there is no compiler."""
    if request.param == "torch":
        monkeypatch.setattr("gp_response.kernels.compiled.library", lambda: None)
    else:
        assert library() is not None, "this machine has a compiler"
    return request.param
