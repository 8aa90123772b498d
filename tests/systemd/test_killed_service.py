"""The service's daemon is killed at random moments, while eight workers predict and somebody
publishes. WEIGHTD_KILLS: how often; what was measured is printed (pytest -s)."""

import json
import os

from tests.systemd.bare import start_bare
from tests.systemd.conftest import CONFIG
from tests.systemd.machine import PYTHON, Machine

KILLING = "/srv/weightd/tests/systemd/killing.py"
KILLS = os.environ.get("WEIGHTD_KILLS", "12")


def test_a_service_that_is_killed_again_and_again_loses_nothing(spare: Machine) -> None:
    spare.write(CONFIG, 'keep = 3\nmemory_budget = "256MiB"\n')
    spare.systemctl("reload", "weightd")
    start_bare(spare)
    found = json.loads(spare.out(PYTHON, KILLING, KILLS, "11", timeout_s=1800))
    print(json.dumps(found, indent=1))
    assert found["violations"] == {}, found
    assert found["predictions"]["failed"] == found["predictions"]["torn"] == 0
    assert found["predictions"]["checked"] > 1000
    assert found["done"]["kill daemon"] == int(KILLS)
    assert found["done"]["version kept over a kill"] >= int(KILLS)
