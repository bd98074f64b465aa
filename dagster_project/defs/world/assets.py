"""The world, and its fidelity card."""

import dagster as dg

from dagster_project.defs.resources import LoopResource
from dagster_project.defs.runs import MODELS
from dagster_project.report import charts, show


def _of(*names: str) -> list[dg.AssetKey]:
    return [dg.AssetKey(["traces", name]) for name in names]


@dg.asset(
    key=["world", "simulator"],
    deps=_of("transitions", "conversations", "tool_profile"),
    group_name="world",
    kinds={"pytorch", "lora"},
    pool=MODELS,
    owners=["team:learning"],
    tags={"layer": "model"},
    description="The world: induced rules, and the world and user adapters. They answer as production did.",
)
def simulator(context: dg.AssetExecutionContext, rehearsal: LoopResource) -> dg.MaterializeResult:
    done = rehearsal.open(context).world()
    curves = {
        name: charts.markdown(charts.curve(history, "held_out", "held-out loss (nats)", 1), f"{name}: loss")
        for name, history in done.facts["history"].items()
    }
    return dg.MaterializeResult(
        metadata=show.rounded({
            **{name: count for name, count in done.facts["counts"].items()},
            **{f"learning_curve_{name}": dg.MetadataValue.md(text) for name, text in curves.items()},
            "reused": done.reused,
            "seconds": done.seconds,
            "path": dg.MetadataValue.path(str(done.directory)),
        })
    )


@dg.asset(
    key=["world", "fidelity_card"],
    deps=[dg.AssetKey(["world", "simulator"])],
    group_name="world",
    kinds={"pytorch", "json"},
    pool=MODELS,
    owners=["team:learning"],
    tags={"layer": "measure"},
    description="Fidelity of the world per tool, on held-out conversations, with baselines.",
)
def fidelity_card(context: dg.AssetExecutionContext, rehearsal: LoopResource) -> dg.MaterializeResult:
    done = rehearsal.open(context).card()
    overall = done.facts["overall"]
    return dg.MaterializeResult(
        metadata=show.rounded({
            "card": dg.MetadataValue.md(show.card(done.facts)),
            "exact_match": overall["exact_match"],
            "derivable_exact_match": overall["derivable"]["exact_match"],
            "outcome_f1": overall["outcome_f1"],
            "macro_exact_match": overall["macro"]["exact_match"],
            "macro_outcome_f1": overall["macro"]["outcome_f1"],
            "log_loss": overall["log_loss"],
            "error_rate_ratio": overall["errors"]["ratio"],
            "read_after_write": overall["read_after_write"]["exact_match"],
            "calls": overall["n"],
            "volatile_fields": ", ".join(f"{t}.{f}" for t, of in done.facts.get("volatile", {}).items() for f in of)
            or "none",
            "drift": "; ".join(done.facts.get("drift", ())) or "none",
            "history": dg.MetadataValue.json(done.facts.get("history", [])),
            "blocked": ", ".join(_with_status(done.facts, "block")) or "none",
            "seconds": done.seconds,
        })
    )


@dg.asset_check(
    asset=dg.AssetKey(["world", "fidelity_card"]),
    description="The world beats the replay and the nearest-copy baseline in outcome F1 and in exact match.",
)
def world_beats_baselines(context: dg.AssetCheckExecutionContext, rehearsal: LoopResource) -> dg.AssetCheckResult:
    overall = rehearsal.open(context).read("card").facts["overall"]
    margins = {
        f"{measure}_over_{name}": (overall[measure] or 0.0) - (baseline[measure] or 0.0)
        for name, baseline in overall["baselines"].items()
        if name in ("replay_cache", "nearest_copy")
        for measure in ("exact_match", "outcome_f1")
    }
    return dg.AssetCheckResult(
        passed=min(margins.values()) > 0, severity=dg.AssetCheckSeverity.WARN, metadata=dict(margins)
    )


@dg.asset_check(
    asset=dg.AssetKey(["world", "fidelity_card"]),
    description="No tool fails its thresholds. A tool that does is blocked: practice only replays it.",
)
def no_tool_is_blocked(context: dg.AssetCheckExecutionContext, rehearsal: LoopResource) -> dg.AssetCheckResult:
    facts = rehearsal.open(context).read("card").facts
    blocked = _with_status(facts, "block")
    why = {tool: "; ".join(facts["tools"][tool]["why"]) for tool in blocked}
    return dg.AssetCheckResult(passed=not blocked, severity=dg.AssetCheckSeverity.WARN, metadata=why)


def _with_status(card: dict, status: str) -> list[str]:
    return [tool for tool, entry in card["tools"].items() if entry["status"] == status]
