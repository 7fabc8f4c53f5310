"""What an engine is to do: how many may fail, and what must be current first."""

import json

import pytest

from lib.errors import ConfigError
from lib.fleet.inventory import read_inventory
from lib.fleet.order import Order, read_tolerance


def order(action: str) -> Order:
    """Of two waves with a database each, in which 5% may fail."""
    rows = [
        {"tenant": f"t{wave}", "url": f"postgresql://h/{wave}", "wave": wave} for wave in (0, 1)
    ]
    inventory = read_inventory("\n".join(map(json.dumps, rows)))
    return Order("r", action, "ci", "003-x", inventory)


@pytest.mark.parametrize(
    ("text", "tolerated"),
    [("5%", [1, 1, 2]), ("0%", [0, 0, 0]), ("100%", [1, 20, 21]), ("0", [0] * 3), ("7", [7] * 3)],
)
def test_a_percentage_is_of_the_cluster_and_rounded_up(text: str, tolerated: list[int]) -> None:
    tolerance = read_tolerance(text)
    assert [tolerance.of(databases) for databases in (1, 20, 21)] == tolerated
    assert str(tolerance) == text


@pytest.mark.parametrize("text", ["", "%", "many", "1.5", "-1", "100.001%", "101%", "5%%", "1e3"])
def test_what_is_neither_a_percentage_nor_a_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a percentage such as 5%, or a number"):
        read_tolerance(text)


def test_a_look_goes_on_whatever_fails_and_waits_for_no_wave() -> None:
    assert order("migrate").tolerated(40) == 2
    assert order("status").tolerated(40) == 40
    for action, required in (("migrate", [True, False]), ("status", [False, False])):
        made = order(action)
        assert [made.is_required(wave) for wave in made.waves] == required
