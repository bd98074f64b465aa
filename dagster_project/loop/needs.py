"""What the tables must hold for a run: checked after the stage `data`, so that no fit runs in vain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dagster_project.loop.settings import Settings
from ingest.errors import UserError
from ingest.records import Conversation
from training.judging.judge import split_labelled


def check_data(
    settings: Settings, conversations: Sequence[Conversation], scenarios: Callable[[], Sequence[Any]],
    stages: Sequence[str],
) -> None:  # fmt: skip
    """Raise UserError, with everything that is missing, if a stage of `stages` cannot run with these conversations.

    `scenarios` returns those that can be practised; it is called if `stages` include practice.
    """
    missing = []
    if "judge" in stages and not settings.ruler.base_url:
        try:
            split_labelled(conversations, settings.judge)
        except UserError as error:
            missing.append(str(error))
    if "candidate" in stages:
        count, gate, train = len(scenarios()), settings.gate.scenarios, settings.train
        if count < (needed := gate + train.held_out + train.groups):
            missing.append(
                f"practice and gate need {needed} scenarios (gate.scenarios {gate}, train.held_out {train.held_out}, "
                f"train.groups {train.groups}), and {count} of {len(conversations)} conversations can be practised; "
                "ingest more conversations or lower these settings"
            )
    if missing:
        raise UserError(". ".join(missing))
