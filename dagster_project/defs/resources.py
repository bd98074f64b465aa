"""The one resource: where the loop lives. And how runs are executed: one stage after the other, each on all cores."""

import dagster as dg

from dagster_project.loop.passes import Loop
from dagster_project.loop.settings import Settings


class LoopResource(dg.ConfigurableResource):
    """The loop in one home directory. What else can be chosen stands in `settings.json` there."""

    home: str

    def open(self, context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext | None = None) -> Loop:
        """The loop, telling how far it is to Dagster's log."""
        return Loop(Settings(home=self.home), log=context.log.info if context else None)


@dg.definitions
def resources() -> dg.Definitions:
    """The home comes from REHEARSAL_HOME, else it is the demo's."""
    return dg.Definitions(
        resources={"rehearsal": LoopResource(home=str(Settings().home))}, executor=dg.in_process_executor
    )
