"""The evaluation of both policies in the real environment, and the report."""

import dagster as dg

from dagster_project.defs.resources import LoopResource
from dagster_project.defs.runs import MODELS
from dagster_project.report import charts, contents, server, show
from dagster_project.report import page as report

NO_ENVIRONMENT = "not measured: no real environment is configured (setting `environment`)"


@dg.asset(
    key=["report", "evaluation"],
    deps=[dg.AssetKey(["policy", "clone"]), dg.AssetKey(["policy", "candidate"])],
    group_name="report",
    kinds={"pytorch"},
    pool=MODELS,
    owners=["team:learning"],
    tags={"layer": "measure"},
    description="Success rates of clone and candidate in the real environment, with the same start states and seeds. "
    "Without a real environment nothing is measured, and the report says so.",
)
def evaluation(context: dg.AssetExecutionContext, rehearsal: LoopResource) -> dg.MaterializeResult:
    loop = rehearsal.open(context)
    if not loop.settings.environment:
        context.log.info(NO_ENVIRONMENT)
        return dg.MaterializeResult(metadata={"skipped": NO_ENVIRONMENT})
    done = loop.evaluation()
    facts = done.facts
    picture = charts.before_and_after([contents.whole(facts), *contents.slices(facts)])
    return dg.MaterializeResult(
        metadata=show.rounded({
            "success_before": facts["before"],
            "success_after": facts["after"],
            "difference": f"{facts['gain']:+.3f} ({facts['low']:+.3f} to {facts['high']:+.3f})",
            "episodes": facts["episodes"],
            "faults": dg.MetadataValue.json(facts.get("faults", {})),
            "by_kind": dg.MetadataValue.md(charts.markdown(picture, "success before and after")),
            "seconds": done.seconds,
        })
    )


@dg.asset_check(
    asset=dg.AssetKey(["report", "evaluation"]), description="The interval of the success gain is above zero."
)
def better_in_reality(context: dg.AssetCheckExecutionContext, rehearsal: LoopResource) -> dg.AssetCheckResult:
    loop = rehearsal.open(context)
    if not loop.settings.environment:
        return dg.AssetCheckResult(
            passed=False, severity=dg.AssetCheckSeverity.WARN, description=NO_ENVIRONMENT, metadata={"measured": False}
        )
    facts = loop.read("evaluation").facts
    return dg.AssetCheckResult(
        passed=facts["low"] > 0,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=show.rounded({"measured": True, "gain": facts["gain"], "low": facts["low"], "high": facts["high"]}),
    )


@dg.asset(
    key=["report", "page"],
    deps=[dg.AssetKey(["report", "evaluation"]), dg.AssetKey(["policy", "champion"])],
    group_name="report",
    kinds={"html", "json"},
    owners=["team:learning"],
    tags={"layer": "report"},
    description="The report: one self-contained HTML page, and its figures as JSON.",
)
def page(context: dg.AssetExecutionContext, rehearsal: LoopResource) -> dg.MaterializeResult:
    loop = rehearsal.open(context)
    told = contents.gather(loop)
    written = report.write(told, loop.settings.home)
    link = server.url(loop.settings.home)
    return dg.MaterializeResult(
        metadata=show.rounded({
            **({"open": dg.MetadataValue.url(link)} if link else {}),
            "summary": dg.MetadataValue.md(show.summary(told)),
            "path": dg.MetadataValue.path(str(written.absolute())),
        })
    )
