"""Times of a step: of computing, of memory, and of what devices exchange."""

import pytest

from ecgssl_jax.planning.chips import GPUS, TPUS, seconds
from ecgssl_jax.planning.program_text import Collective

SIZE = 10**9


def exchange(chip, members, places=None, kind="all-gather", pairs=()):
    one = Collective(
        kind, size=SIZE, members=members, times=1, where="", pairs=tuple(pairs)
    )
    found = seconds(chip, flops=0, traffic=0, collectives=[one], places=places)
    return found["exchange"], one.sent


def grid(*sides):
    places = [()]
    for side in sides:
        places = [(*place, x) for place in places for x in range(side)]
    return places


def test_each_part_is_alone_at_full_speed():
    chip = TPUS["v5p"]
    found = seconds(chip, flops=chip.flops, traffic=chip.bandwidth / 2, collectives=[])
    assert found == {"compute": 1.0, "memory": 0.5, "exchange": 0}


@pytest.mark.parametrize(
    ("kind", "sides", "members", "links"),
    [
        ("v5p", (2, 2, 2), (0, 1), 1),  # neighbours
        ("v5p", (4, 4, 4), (0, 1, 2, 3), 2),  # an axis whose ends are linked
        ("v5p", (4, 4, 4), (0, 1), 1),  # a part of it
        ("v5p", (4, 4, 4), tuple(range(64)), 6),
        ("v5e", (4, 4), tuple(range(16)), 2),  # two lines
        ("v5e", (16, 16), tuple(range(256)), 4),
        ("v5p", (2, 2, 2), (0, 2, 4, 6), 2),
    ],
)
def test_an_axis_of_a_grid_is_a_ring_or_a_line(kind, sides, members, links):
    chip = TPUS[kind]
    found, sent = exchange(chip, members, grid(*sides))
    assert found == pytest.approx(sent / (links * chip.link))


def test_gpus_of_a_machine_are_linked_and_machines_share_a_network():
    chip = GPUS["h100"]
    found, sent = exchange(chip, tuple(range(8)))
    assert found == pytest.approx(sent / 450e9)
    # One of each of four machines: each has a network of its own.
    found, sent = exchange(chip, (0, 8, 16, 24))
    assert found == pytest.approx(sent / 450e9 + sent / 50e9)
    # All of two machines share what eight have.
    found, sent = exchange(chip, tuple(range(16)))
    assert found == pytest.approx(sent / 450e9 + sent / 400e9)


def test_the_slowest_pair_of_a_permutation_decides():
    chip = GPUS["h100"]
    pairs = [(number, number + 1) for number in range(15)]
    within, sent = exchange(chip, (0, 1), kind="collective-permute", pairs=pairs[:7])
    assert within == pytest.approx(sent / 450e9)
    across, _ = exchange(chip, (0, 1), kind="collective-permute", pairs=pairs)
    assert across > 2 * within


def test_of_a_tpu_permutations_go_in_both_directions():
    chip = TPUS["v5p"]
    found, sent = exchange(
        chip, (0, 1), grid(2, 2, 2), kind="collective-permute", pairs=[(0, 1), (1, 3)]
    )
    assert found == pytest.approx(sent / (2 * chip.link))
