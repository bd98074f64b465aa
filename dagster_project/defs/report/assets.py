"""The proof: both policies in the real environment, and the page that tells about it."""

import dagster as dg

from dagster_project.defs.resources import LoopResource
from dagster_project.report import page as report
from dagster_project.report import pictures, story


@dg.asset(
    key=["report", "evaluation"],
    deps=[dg.AssetKey(["policy", "clone"]), dg.AssetKey(["policy", "candidate"])],
    group_name="report",
    kinds={"pytorch"},
    owners=["team:learning"],
    tags={"layer": "measure"},
    description="Success of the clone and of the candidate in the real environment, same starts, same seeds.",
)
def evaluation(context: dg.AssetExecutionContext, rehearsal: LoopResource) -> dg.MaterializeResult:
    loop = rehearsal.open(context)
    done = loop.evaluation()
    facts = done.facts
    picture = pictures.before_and_after([story.whole(facts), *story.slices(facts)])
    return dg.MaterializeResult(
        metadata={
            "success_before": facts["before"],
            "success_after": facts["after"],
            "difference": f"{facts['gain']:+.3f} ({facts['low']:+.3f} to {facts['high']:+.3f})",
            "episodes": facts["episodes"],
            "by_kind": dg.MetadataValue.md(pictures.markdown(picture, "success before and after")),
            "seconds": done.seconds,
        }
    )


@dg.asset_check(
    asset=dg.AssetKey(["report", "evaluation"]), description="The retrained policy is surely better in reality."
)
def better_in_reality(context: dg.AssetCheckExecutionContext, rehearsal: LoopResource) -> dg.AssetCheckResult:
    facts = rehearsal.open(context).evaluation().facts
    return dg.AssetCheckResult(
        passed=facts["low"] > 0,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"gain": facts["gain"], "low": facts["low"], "high": facts["high"]},
    )


@dg.asset(
    key=["report", "page"],
    deps=[dg.AssetKey(["report", "evaluation"]), dg.AssetKey(["policy", "champion"])],
    group_name="report",
    kinds={"html", "json"},
    owners=["team:learning"],
    tags={"layer": "report"},
    description="One self-contained page about this pass through the loop, and its figures as JSON.",
)
def page(context: dg.AssetExecutionContext, rehearsal: LoopResource) -> dg.MaterializeResult:
    loop = rehearsal.open(context)
    written = report.write(story.tell(loop), loop.settings.home)
    return dg.MaterializeResult(
        metadata={"page": dg.MetadataValue.path(str(written)), "url": dg.MetadataValue.url(written.as_uri())}
    )
