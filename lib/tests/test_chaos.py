"""The campaign of kills notices what it is there to notice. The campaign itself: ``make chaos``."""

from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import chaos


def test_trainings_are_killed_and_end_as_they_should_and_a_difference_is_a_loss(tmp_path: Path) -> None:
    campaign = chaos.Campaign(random.Random(3), tmp_path)
    trainings = chaos.Trainings(campaign)
    while campaign.kills.total() < 4:
        trainings.one(2)
    assert (campaign.losses, campaign.duplicates) == ([], [])
    for outcome in trainings.expected.values():
        outcome["rows"][-1]["loss"] += 1e-12
    trainings.one(1)
    assert campaign.losses == [campaign.losses[0]] and "ended otherwise than an undisturbed one" in campaign.losses[0]
    assert campaign.lines()[0] == f"{campaign.kills.total()} kills, 1 losses, 0 duplicates"


def test_a_step_counted_twice_is_a_duplicate(tmp_path: Path) -> None:
    campaign = chaos.Campaign(random.Random(3), tmp_path)
    trainings = chaos.Trainings(campaign)
    config = next(iter(trainings.expected))
    found = trainings._outcome(tmp_path / config)
    found["rows"].insert(0, dict(found["rows"][0]))
    chaos.torch.save(found, tmp_path / "twice.outcome")
    trainings._compare(tmp_path / "twice", config)
    assert "twice" in campaign.duplicates[0]
