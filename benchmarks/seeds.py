"""The demo on several seeds, as the table of docs/results.md.

    python -m benchmarks.seeds [--seeds 0 1 2] [--homes artifacts/seeds]

Runs what is not finished yet, one after the other, and prints a Markdown table: everything that is drawn differs
between seeds, the production traffic included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAD = ("seed", "before", "after", "gain (95 %)", "judge", "world: exact, outcome F1", "gate", "minutes", "GiB")


def finished(home: Path, seed: int) -> dict[str, Any]:
    """The report of a seed's demo, which is run first if it is not there."""
    if not (home / "report.json").exists():
        command = [sys.executable, "-m", "dagster_project.cli", "demo", "--seed", str(seed), "--home", str(home)]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return json.loads((home / "report.json").read_text())


def row(report: Mapping[str, Any]) -> list[str]:
    """One seed as cells."""
    low, high = report["success_ci"]
    gain = report["success_after"] - report["success_before"]
    overall = report["world"]["overall"]
    return [
        str(report["seed"]),
        f"{report['success_before']:.3f}",
        f"{report['success_after']:.3f}",
        f"{gain:+.3f} ({low:+.3f} to {high:+.3f})",
        f"{report['judge_agreement']:.3f}",
        f"{overall['exact_match']:.2f}, {overall['outcome_f1']:.2f}",
        "promoted" if report["gate"]["promoted"] else "kept the champion",
        f"{report['minutes']:.1f}",
        f"{report['peak_gib']:.1f}" if report.get("peak_gib") else "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--homes", type=Path, default=Path("artifacts/seeds"), help="where each seed has a home")
    arguments = parser.parse_args()
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    for seed in arguments.seeds:
        print(f"| {' | '.join(row(finished(arguments.homes / str(seed), seed)))} |", flush=True)


if __name__ == "__main__":
    main()
