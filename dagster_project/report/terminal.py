"""The report on a terminal: success before and after, and the path of the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ingest.errors import UserError


def print_report(home: Path, as_json: bool = False) -> None:
    """Print the result of the last run. Raises UserError if there is no report."""
    try:
        text = (home / "report.json").read_text()
        found = json.loads(text)
    except (OSError, ValueError):
        raise UserError(
            f"{home} holds no report; give another --home, run `rehearsal run --home {home}` on your traces, or "
            "`rehearsal demo`, or materialise the asset `report/page`"
        ) from None
    if as_json:
        print(text)
        return
    console = Console(soft_wrap=True)
    if found["success_ci"] is None:
        gate = found["gate"]
        console.print(f"candidate {gate['version']}: [bold]{gate['state']}[/]; {gate['why']}", highlight=False)
        console.print(f"success in the real environment was not measured: {found['reality_note']}")
    else:
        print_success(found["success_before"], found["success_after"], found["success_ci"], found["episodes"])
    console.print(f"report: {home / 'report.html'}")


def print_success(before: float, after: float, interval: Sequence[float], episodes: int) -> None:
    Console(soft_wrap=True).print(
        f"success {before:.1%} → [bold green]{after:.1%}[/] in the real environment, "
        f"{100 * (after - before):+.1f} points ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}), "
        f"{episodes} episodes each"
    )
