"""The support desk's production agent: runs it and exports its telemetry to a collector (examples/production.py).

    python -m examples.support_desk.production --endpoint http://127.0.0.1:4318 --conversations 3000 --seed 1
"""

from __future__ import annotations

import typer

from ..production import ProductionAgent
from ..telemetry import Names
from .agent import run_scripted
from .environment import SupportDesk

AGENT = ProductionAgent(
    Names(agent="support-desk", model="desk-agent-1", provider="example.desk", tracer="examples.support_desk"),
    SupportDesk,
    run_scripted,
)
run_production = AGENT.run_production
play = AGENT.play

if __name__ == "__main__":
    typer.run(AGENT.main)
