"""Options of the test suite."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--keops-all", action="store_true", help="compile and check every kernel with KeOps, not a few")
