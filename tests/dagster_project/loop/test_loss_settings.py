"""A loss is selected by its name alone, in every place where settings can stand."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from dagster_project.loop.settings import Settings
from ingest.errors import UserError
from training.learning.offline_losses import AsymRe, Kto, RewardWeightedSft, Topr
from training.learning.policy_losses import Cispo, DrGrpo, Gspo, PpoClip
from training.policy.offline.iterative_ppo import IterativePpo

POLICY = {"cispo": Cispo, "ppo_clip": PpoClip, "dr_grpo": DrGrpo, "gspo": Gspo}
OFFLINE = {
    "asymre": AsymRe, "kto": Kto, "reward_weighted_sft": RewardWeightedSft, "topr": Topr, "iterative_ppo": IterativePpo,
}  # fmt: skip


@pytest.mark.parametrize("form", POLICY)
def test_a_policy_loss_by_its_form(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings(home=tmp_path, train={"loss": {"form": form}}).train.loss == POLICY[form]()
    monkeypatch.setenv("REHEARSAL_TRAIN__LOSS__FORM", form)
    monkeypatch.setenv("REHEARSAL_TRAIN__LOSS__KL_PENALTY", "0.2")
    found = Settings(home=tmp_path)
    assert found.train.loss == POLICY[form](kl_penalty=0.2)
    found.save()
    monkeypatch.delenv("REHEARSAL_TRAIN__LOSS__FORM")
    monkeypatch.delenv("REHEARSAL_TRAIN__LOSS__KL_PENALTY")
    assert Settings(home=tmp_path).train.loss == found.train.loss


@pytest.mark.parametrize("method", OFFLINE)
def test_an_offline_method_by_its_name(method: str, tmp_path: Path) -> None:
    assert Settings(home=tmp_path, offline={"loss": {"method": method}}).offline.loss == OFFLINE[method]()


def test_a_field_of_another_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_importance_weight"):
        Settings(home=tmp_path, train={"loss": {"form": "gspo", "max_importance_weight": 3.0}})
    with pytest.raises(UserError, match="margin"):
        Settings(home=tmp_path, offline={"loss": {"method": "kto", "margin": 0.7}})


@pytest.mark.parametrize(("default", "others"), [(Cispo, POLICY.values()), (AsymRe, OFFLINE.values())])
def test_fields_that_losses_share_have_one_default(default: type, others: list[type]) -> None:
    """Otherwise the default loss's value would stand in for another's own (training/learning/choices.py)."""
    for other in others:
        for name in default.model_fields.keys() & other.model_fields.keys():
            if get_args(default.model_fields[name].annotation) == get_args(other.model_fields[name].annotation):
                assert default.model_fields[name].default == other.model_fields[name].default
