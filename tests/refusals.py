"""How every test of bad input reads the answer."""

from collections.abc import Callable
from typing import Any

import pytest

from gp_response.errors import GPResponseError


def assert_refused(action: Callable[[], Any], said: str, *, error: type[GPResponseError] = GPResponseError) -> None:
    """The action raises `error` in one line that contains `said`."""
    with pytest.raises(error) as caught:
        action()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


__all__ = ["assert_refused"]
