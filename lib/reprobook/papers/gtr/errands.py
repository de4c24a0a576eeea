"""The six tasks of ALFWorld, and games drawn for them over the floor plans."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from reprobook.errors import ReprobookError
from reprobook.papers.gtr.floorplans import CAN, HOLDS, floor_plans

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

# Task -> the two wordings of its goal; a game shows one of them.
WORDINGS = {
    "pick_and_place_simple": ("put a {0} in {1}", "put some {0} on {1}"),
    "look_at_obj_in_light": ("look at {0} under the {1}", "examine the {0} with the {1}"),
    "pick_clean_then_place_in_recep": ("put a clean {0} in {1}", "clean some {0} and put it in {1}"),
    "pick_heat_then_place_in_recep": ("put a hot {0} in {1}", "heat some {0} and put it in {1}"),
    "pick_cool_then_place_in_recep": ("put a cool {0} in {1}", "cool some {0} and put it in {1}"),
    "pick_two_obj_and_place": ("put two {0} in {1}", "find two {0} and put them in {1}"),
}
TASKS = tuple(WORDINGS)
PICK, LOOK, CLEAN, HEAT, COOL, TWO = range(6)  # places in TASKS
TREATMENTS = {  # task -> the verb, what it needs of an object, and where it is done
    CLEAN: ("clean", "Cleanable", "SinkBasin"),
    HEAT: ("heat", "Heatable", "Microwave"),
    COOL: ("cool", "Coolable", "Fridge"),
}
# Ours: the lists do not say where lamps stand.
_LAMP_STANDS = frozenset("ArmChair Bed CoffeeTable Desk DiningTable Dresser Shelf SideTable Sofa TVStand".split())


class Start(NamedTuple):
    """A game to be played: the task (a name of ``TASKS``), kinds of its object and of its receptacle (or lamp), which
    wording (0 or 1), the floor plan, and the objects in the engine's order with the receptacle each lies in."""

    task: str
    target: str
    where: str
    wording: int
    plan: int
    objects: tuple[str, ...]
    places: tuple[int, ...]

    @property
    def goal(self) -> str:
        """The task in words."""
        return WORDINGS[self.task][self.wording].format(self.target.lower(), self.where.lower())


def names(kinds: Sequence[str]) -> list[str]:
    """What the engine calls things of these kinds: of n things of a kind, in its order, the first is number n."""
    left: dict[str, int] = {}
    for kind in kinds:
        left[kind] = left.get(kind, 0) + 1
    found = []
    for kind in kinds:
        found.append(f"{kind.lower()} {left[kind]}")
        left[kind] -= 1
    return found


@cache
def homes(plan: int, kind: str) -> tuple[int, ...]:
    """The receptacles of the floor plan in or on which an object of this kind can lie."""
    fits = _LAMP_STANDS if kind in CAN["Toggleable"] else {name for name, kinds in HOLDS.items() if kind in kinds}
    return tuple(place for place, name in enumerate(floor_plans()[plan].receptacles) if name in fits)


@cache
def possible(task: str, plan: int) -> tuple[tuple[str, str], ...]:
    """Pairs (kind of object, kind of receptacle or lamp) for which the task can be set and solved in the floor plan.

    Raises :class:`ReprobookError` for a task or floor plan that does not exist."""
    if task not in WORDINGS:
        raise ReprobookError(f"task {task!r} is not known; tasks: {', '.join(TASKS)}")
    if plan not in floor_plans():
        known = "1 to 30, 201 to 230, 301 to 330 and 401 to 430"
        raise ReprobookError(f"floor plan {plan!r} is not known; floor plans: {known}")
    stands, objects = floor_plans()[plan].receptacles, floor_plans()[plan].objects
    lamps = [kind for kind in objects if kind in CAN["Toggleable"] and homes(plan, kind)]
    things = [kind for kind in objects if kind not in CAN["Toggleable"] and homes(plan, kind)]
    if TASKS.index(task) == LOOK:
        return tuple((kind, lamp) for kind in things for lamp in lamps)
    _, needed, tool = TREATMENTS.get(TASKS.index(task), ("", "", ""))
    if tool and tool not in stands:
        return ()
    found = []
    for kind in things:
        fits = sorted({stands[place] for place in homes(plan, kind)})
        if len(fits) > 1 and (not needed or kind in CAN[needed]):
            found += [(kind, where) for where in fits if where != tool]
    return tuple(found)


def draw(task: str, rng: np.random.Generator, plan: int | None = None) -> Start:
    """A solvable game of the task: object, receptacle, wording and furnishing by chance. Of the task's object there are
    one to three (two or three where two are asked for), none of them where it must go; of every other kind up to two.

    ``plan``: the floor plan, else one of those that offer the task. Raises :class:`ReprobookError` if it does not."""
    offers = [number for number in floor_plans() if possible(task, number)] if plan is None else [plan]
    if not possible(task, offers[0]):
        raise ReprobookError(f"floor plan {plan} does not offer the task {task!r}; leave out plan, or choose another")
    plan = int(rng.choice(offers))
    target, where = possible(task, plan)[rng.integers(len(possible(task, plan)))]
    room = floor_plans()[plan]
    objects: list[str] = []
    places: list[int] = []
    for kind in room.objects:
        free = [place for place in homes(plan, kind) if kind != target or room.receptacles[place] != where]
        if kind == target:
            count = int(rng.integers(2 if TASKS.index(task) == TWO else 1, 4))
        elif kind in CAN["Toggleable"]:
            count = int(kind == where or rng.random() < 0.5)
        else:
            count = int(rng.integers(3))
        if free:
            objects += [kind] * count
            places += [int(place) for place in rng.choice(free, count)]
    return Start(task, target, where, int(rng.integers(2)), plan, tuple(objects), tuple(places))
