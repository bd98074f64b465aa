"""GRPO with RULER in one function, to be read from top to bottom: sample, judge, advantage, step.

A test checks that the trainer (grpo.py, learner.py) takes the same step. Not included: selecting the best adapter on
held-out scenarios, resuming, processes, alarms, micro-batches, the tiny base's fused passes, planted groups, stored
episodes. The loss is CISPO with the k3 KL penalty; only the importance weight and the gradient's norm are clipped.

Axes: G members of a group, T tokens of a row, V the vocabulary.
"""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ingest.records import Scenario
from training.environment import ComparedEpisode, Start
from training.judging.advantages import kept_share
from training.learning.policy_losses import Cispo
from training.learning.trajectory import Trajectory, seed_of
from training.models.base import Base
from training.models.lora import load_weights, new_adapter, save_adapter, settings_of
from training.policy.grpo import TrainSettings
from training.policy.order import order_of
from training.policy.practice import Practice
from training.policy.rollout import rollout


async def train(
    base: Base, practice: Practice, scenarios: Sequence[Scenario], start: Path, out: Path, settings: TrainSettings
) -> list[dict[str, float]]:
    """Take `settings.steps` steps from the adapter `start`; write the last adapter to `out`. Returns each step's
    metrics.

    `practice` provides the engine, the worlds and the judge. `settings.loss` must be CISPO.
    """
    loss, optimiser = settings.loss, settings.learner
    assert isinstance(loss, Cispo) and optimiser.learning_rate is not None

    # The policy is the base with the adapter `start`. The reference of the KL penalty is the same adapter and does not
    # change.
    policy = new_adapter(copy.deepcopy(base.model), settings_of(start), settings.seed)
    load_weights(policy, start)
    reference = copy.deepcopy(policy)
    parameters = [p for p in policy.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(
        parameters, optimiser.learning_rate, betas=(0.9, 0.98), weight_decay=optimiser.weight_decay
    )
    history = []

    for step in range(settings.steps):
        # ----- sample: every member of a group is in the same world, with the current adapter

        name = f"reference@{step}"
        save_adapter(policy, out, {"role": "policy", "step": step})
        practice.load_adapter(name, out)
        practice.engine.clear_cache()
        chosen = [scenarios[k] for k in order_of(step, settings.groups, len(scenarios), settings.seed)]
        seeds = [seed_of(settings.seed, step, scenario.scenario_id) for scenario in chosen]
        episodes, runs = [], []
        for scenario, seed in zip(chosen, seeds, strict=True):
            world = practice.worlds.world(scenario, seed=seed)
            first = Start(scenario.scenario_id, scenario.system, tuple(scenario.tools), scenario.first_user_message)
            for member in range(settings.group_size):
                episodes.append(world.episode())
                runs.append(
                    rollout(
                        practice.engine, practice.chat, episodes[-1], first, adapter=name,
                        temperature=settings.temperature, min_p=settings.min_p, seed=seed_of(seed, "member", member),
                        limits=settings.limits, show_system=practice.show_system, learned=True,
                    )
                )  # fmt: skip
        lived = await asyncio.gather(*runs)
        for episode, trajectory in zip(episodes, lived, strict=True):
            trajectory.as_recorded = episode.as_recorded() if isinstance(episode, ComparedEpisode) else None
        groups = [lived[k : k + settings.group_size] for k in range(0, len(lived), settings.group_size)]

        # ----- judge: RULER scores the members of a group against each other (None: could not be scored); a score is
        # lowered where the episode's changes are not those of the recorded success

        judged = await practice.judge(groups, seeds)

        # ----- advantage: the score less the group's mean; unsupported episodes have a lower weight

        learned: list[tuple[Trajectory, float]] = []
        for group, judgement in zip(groups, judged, strict=True):
            weights_G = np.array([t.supported() if any(t.trained) else 0.0 for t in group])
            scored_G = np.array([score is not None for score in judgement.scores])
            scores_G = np.array([score if score is not None else 0.0 for score in judgement.scores])
            counted_G = weights_G * scored_G
            taught = counted_G > 0
            kept = {kept_share(t.as_recorded, settings.changes_weight) for t in group}
            least = settings.min_score_spread * (kept.pop() if len(kept) == 1 else 1.0)
            if scored_G.mean() < 0.75 or taught.sum() < 2 or np.ptp(scores_G[taught]) <= least:
                continue  # too few scores, or no difference between them: the group carries no signal
            mean = (counted_G * scores_G).sum() / counted_G.sum()
            advantages_G = counted_G * (scores_G - mean)
            learned += [(t, float(a)) for t, a in zip(group, advantages_G, strict=True) if a]

        # ----- step: the mean over all learned tokens of the step

        count = sum(sum(t.trained) for t, _ in learned)
        adam.zero_grad()
        for trajectory, advantage in learned:
            logprobs_N = drawn_logprobs(policy, trajectory, settings)
            with torch.no_grad():
                reference_N = drawn_logprobs(reference, trajectory, settings)
            ratio_N = (logprobs_N.detach() - torch.tensor(trajectory.logprobs)).exp()
            policy_N = -ratio_N.clamp(max=loss.max_importance_weight) * advantage * logprobs_N
            distance_N = reference_N - logprobs_N
            divergence_N = distance_N.exp() - distance_N - 1
            ((policy_N + loss.kl_penalty * divergence_N).sum() / count).backward()
        rate = optimiser.learning_rate * min(1.0, (step + 1) / max(1, optimiser.warmup_steps))
        if optimiser.schedule == "cosine":
            rate *= 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        for options in adam.param_groups:
            options["lr"] = rate
        norm = torch.nn.utils.clip_grad_norm_(parameters, optimiser.max_grad_norm).item() if learned else 0.0
        if learned:
            adam.step()
        history.append({"rows": float(len(learned)), "tokens": float(count), "grad_norm": norm, "lr": rate})

    save_adapter(policy, out, {"role": "policy", "base": base.name, "step": settings.steps})
    return history


def drawn_logprobs(model: torch.nn.Module, trajectory: Trajectory, settings: TrainSettings) -> torch.Tensor:
    """Log-probabilities [N] of the sampled ids, under the sampling distribution."""
    ids_T = torch.tensor(trajectory.ids)
    logits_TV = model(ids_T[None, :-1]).logits[0].float() / settings.temperature
    wrote_T = torch.tensor(trajectory.trained)[1:]
    logits_NV, drawn_N = logits_TV[wrote_T], ids_T[1:][wrote_T]
    if settings.min_p:
        floor_N1 = logits_NV.detach().max(-1, keepdim=True).values + math.log(settings.min_p)
        cut_NV = (logits_NV < floor_N1).scatter(-1, drawn_N[:, None], False)
        logits_NV = logits_NV.masked_fill(cut_NV, -torch.inf)
    return logits_NV.log_softmax(-1).gather(-1, drawn_N[:, None])[:, 0]
