"""The policy: judge, clone, candidate (trained in the world) and champion (decided by the gate)."""

import dagster as dg

from dagster_project.defs.resources import LoopResource
from dagster_project.defs.runs import MODELS
from dagster_project.report import charts, show

MIN_AGREEMENT = 0.65


@dg.asset(
    key=["policy", "judge"],
    deps=[dg.AssetKey(["traces", "outcomes"]), dg.AssetKey(["traces", "conversations"])],
    group_name="policy",
    kinds={"pytorch", "lora"},
    pool=MODELS,
    owners=["team:learning"],
    tags={"layer": "model"},
    description="The judge: a LoRA adapter trained on the outcomes of production conversations, or a hosted model.",
)
def judge(context: dg.AssetExecutionContext, rehearsal: LoopResource) -> dg.MaterializeResult:
    done = rehearsal.open(context).judge()
    facts = done.facts
    if facts["form"] == "hosted":
        return dg.MaterializeResult(metadata={**facts, "agreement": "not measured"})
    return dg.MaterializeResult(
        metadata=show.rounded({
            "agreement": facts["agreement"],
            "interval": f"{facts['interval'][0]:.3f} to {facts['interval'][1]:.3f}",
            "form": facts["form"],
            "exchanges_seen": facts.get("exchanges_seen") or "-",
            "evidence": ", ".join(f"{weight:+.2f}" for weight in facts["evidence"]["weights"]),
            "labelled": facts["labelled"],
            "held_out": facts["held_out"],
            "seconds": done.seconds,
        })
    )


@dg.asset_check(
    asset=dg.AssetKey(["policy", "judge"]),
    description=f"The judge's accuracy on held-out (success, failure) pairs is at least {MIN_AGREEMENT:.0%}.",
)
def judge_agrees(context: dg.AssetCheckExecutionContext, rehearsal: LoopResource) -> dg.AssetCheckResult:
    facts = rehearsal.open(context).read("judge").facts
    if facts["form"] == "hosted":
        return dg.AssetCheckResult(passed=True, metadata={"agreement": "not measured: the judge is hosted"})
    return dg.AssetCheckResult(
        passed=facts["interval"][0] >= MIN_AGREEMENT,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=show.rounded({"agreement": facts["agreement"], "threshold": MIN_AGREEMENT}),
    )


@dg.asset(
    key=["policy", "clone"],
    deps=[dg.AssetKey(["traces", "conversations"])],
    group_name="policy",
    kinds={"pytorch", "lora"},
    pool=MODELS,
    owners=["team:learning"],
    tags={"layer": "model"},
    description="A LoRA adapter that imitates the production agent. The first practice starts from it.",
)
def clone(context: dg.AssetExecutionContext, rehearsal: LoopResource) -> dg.MaterializeResult:
    done = rehearsal.open(context).clone()
    curve = charts.curve(done.facts["history"], "held_out", "held-out loss (nats)", 1)
    return dg.MaterializeResult(
        metadata=show.rounded({
            "conversations": done.facts["rows"],
            "mean_tokens": done.facts["mean_tokens"],
            "learning_curve": dg.MetadataValue.md(charts.markdown(curve, "held-out loss")),
            "seconds": done.seconds,
        })
    )


@dg.asset(
    key=["policy", "candidate"],
    deps=[
        dg.AssetKey(["policy", "clone"]),
        dg.AssetKey(["policy", "judge"]),
        dg.AssetKey(["world", "fidelity_card"]),
        dg.AssetKey(["traces", "scenarios"]),
    ],
    group_name="policy",
    kinds={"pytorch", "lora"},
    pool=MODELS,
    owners=["team:learning"],
    tags={"layer": "model"},
    description="The policy after practice: GRPO with RULER rewards, in worlds grounded in production conversations.",
)
def candidate(context: dg.AssetExecutionContext, rehearsal: LoopResource) -> dg.MaterializeResult:
    done = rehearsal.open(context).candidate()
    history = done.facts["history"]
    curve = charts.curve(history, "reward", "reward in the world")
    return dg.MaterializeResult(
        metadata=show.rounded({
            "steps": done.facts["steps"],
            "best_step": done.facts["best_step"],
            "held_out_gain": done.facts["held_out_gain"],
            "reward": history[-1]["reward"] if history else 0.0,
            "learning_curve": dg.MetadataValue.md(charts.markdown(curve, "reward in the world")),
            "alarms": ", ".join(sorted({a for step in history for a in step["alarms"]})) or "none",
            "seconds": done.seconds,
        })
    )


@dg.asset(
    key=["policy", "champion"],
    deps=[dg.AssetKey(["policy", "candidate"])],
    group_name="policy",
    kinds={"pytorch", "lora"},
    pool=MODELS,
    owners=["team:learning"],
    tags={"layer": "gate"},
    description="The adapter that serves. The gate promotes a candidate if its gain in held-out worlds is above zero.",
)
def champion(context: dg.AssetExecutionContext, rehearsal: LoopResource) -> dg.MaterializeResult:
    loop = rehearsal.open(context)
    done = loop.gate()
    facts, standing = done.facts, loop.registry.standing(done.facts["version"])
    slices = [[name, s["n"], s["before"], s["after"], s["low"], s["high"]] for name, s in facts["slices"].items()]
    return dg.MaterializeResult(
        metadata=show.rounded({
            "promoted": facts["promoted"],
            "why": facts["why"],
            "serving": standing.serving,
            "standing": standing.says,
            "gain": facts["gain"],
            "slices": dg.MetadataValue.md(show.grid(["slice", "n", "champion", "candidate", "low", "high"], slices)),
            "seconds": done.seconds,
        })
    )


@dg.asset_check(
    asset=dg.AssetKey(["policy", "champion"]), description="The gate promoted the candidate."
)
def gate_is_open(context: dg.AssetCheckExecutionContext, rehearsal: LoopResource) -> dg.AssetCheckResult:
    facts = rehearsal.open(context).read("gate").facts
    return dg.AssetCheckResult(
        passed=facts["promoted"],
        severity=dg.AssetCheckSeverity.WARN,
        metadata=show.rounded({"why": facts["why"], "low": facts["low"], "high": facts["high"]}),
    )


retrain_job = dg.define_asset_job(
    "retrain",
    selection=dg.AssetSelection.groups("traces", "world", "policy"),
    description="Ingest new traces, fit a world, practise in it, and run the gate.",
)

nightly = dg.ScheduleDefinition(
    name="nightly_retraining",
    job=retrain_job,
    cron_schedule="0 3 * * *",
    description="Every night: processes new data. Finished stages with unchanged inputs are reused.",
)
