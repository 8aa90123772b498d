"""Numbers of things in what is logged and shown."""

import pytest

from weightd.ipc.words import counted


@pytest.mark.parametrize(("count", "says"), [(0, "0 models"), (1, "1 model"), (2, "2 models")])
def test_one_thing_is_not_called_several(count: int, says: str) -> None:
    assert counted(count, "model") == says
