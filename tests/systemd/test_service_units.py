"""Services that attach because of the unit that they are in, which is systemd's word for them."""

from tests.systemd.conftest import OPERATOR, OWNER, STRANGER
from tests.systemd.machine import LENET, WEIGHTD, Machine, running_service


def test_a_unit_attaches_by_a_rule_and_no_other_does(service: Machine) -> None:
    service.run(WEIGHTD, "load", "ruled", LENET, user=OPERATOR)
    service.run(WEIGHTD, "allow", "ruled", "--unit", "app@*.service", user=OPERATOR)
    with running_service(service, "app@1", STRANGER) as app:
        assert app.ask("attach", model="ruled")["engine"] == "prepacked"
    service.signal("KILL")  # a rule outlives the daemon
    with running_service(service, "app@2", STRANGER) as app:
        assert app.ask("attach", model="ruled")["version"] == 1
    with running_service(service, "other", OWNER) as other:
        assert other.ask("attach", model="ruled")["error"][0] == "NotAllowedError"
    service.run(WEIGHTD, "unload", "ruled", user=OPERATOR)
