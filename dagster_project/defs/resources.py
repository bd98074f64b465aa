"""The resource `rehearsal`, and the executor: one stage after the other in one process, each on all cores."""

from pathlib import Path

import dagster as dg

from dagster_project.loop.passes import Loop
from dagster_project.loop.pins import Pins
from dagster_project.loop.settings import Settings


class LoopResource(dg.ConfigurableResource):
    """The loop in one home directory. All other settings come from `settings.json` there and from REHEARSAL_*."""

    home: str

    def open(
        self, context: dg.OpExecutionContext | dg.AssetExecutionContext | dg.AssetCheckExecutionContext | None = None
    ) -> Loop:
        """The loop, with progress in Dagster's log. All steps of a run read the same stage versions."""
        if context is None:
            return Loop(Settings(home=self.home))
        if Path(self.home).is_dir():
            Pins(Path(self.home), context.run.run_id).hold()
        return Loop(Settings(home=self.home), context.log.info, context.run.run_id)


@dg.definitions
def resources() -> dg.Definitions:
    """The home is REHEARSAL_HOME, or `artifacts/home`."""
    return dg.Definitions(
        resources={"rehearsal": LoopResource(home=str(Settings().home))}, executor=dg.in_process_executor
    )
