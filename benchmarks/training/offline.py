"""Offline methods beside practice in the world, in the real environment of a finished demo.

    python -m benchmarks.training.offline --home artifacts/demo

Every method starts from the demo's clone and learns from the same recorded conversations with outcomes. The adapter of
practice in the world is the demo's candidate. All of them play the same episodes with the same seeds. A method whose
adapter exists below HOME/offline-methods is not trained again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter
from rich.console import Console

from benchmarks.transfer import play
from dagster_project.loop import fits
from dagster_project.loop.passes import Loop
from dagster_project.loop.settings import Settings
from ingest.errors import UserError
from training.models.lora import manifest_of
from training.policy.evaluate import Run, difference
from training.policy.offline.fit import OfflineMethod, OfflineSettings, fit_offline, rewarded
from training.progress import bars, track

METHODS = ("reward_weighted_sft", "kto", "asymre", "iterative_ppo")


def trained(loop: Loop, method: str, clone: Path, out: Path) -> Path:
    """The adapter of one offline method, trained from the clone."""
    if manifest_of(out) is None:
        settings = loop.settings
        tables = loop.read("data").directory
        chosen: OfflineMethod = TypeAdapter(OfflineMethod).validate_python({"method": method})
        how = OfflineSettings(loss=chosen, fit=settings.offline.fit)
        report = track(f"offline training: {method}")
        fit_offline(
            fits.policy_base(settings), rewarded(fits.conversations(tables, settings.agent)), clone, out, how,
            show_system=not settings.compact, seed=settings.seed, checkpoint=out.with_name(f"{out.name}.pt"),
            on_progress=lambda done, metrics: report(int(100 * done), 100, ""),
        )  # fmt: skip
    return out


def table(before: Run, after: Sequence[tuple[str, Run]]) -> str:
    """Success in the real environment per method, and the gain over the clone with its 95 % interval."""
    lines = ["| method | success | gain over the clone |", "| --- | --- | --- |", f"| clone | {before.rate:.1%} | |"]
    for name, run in after:
        found = difference(before, run)
        lines.append(f"| {name} | {run.rate:.1%} | {found.gain:+.1%} ({found.low:+.1%} to {found.high:+.1%}) |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("artifacts/demo"), help="a finished demo's home")
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    arguments = parser.parse_args()
    settings = Settings(home=arguments.home)
    if not (arguments.home / "report.json").exists():
        raise UserError(f"{arguments.home} holds no finished demo; run `rehearsal demo --home {arguments.home}` first")
    loop = Loop(settings)
    clone = loop.read("clone").directory / "adapter"
    out = arguments.home / "offline-methods"
    with bars(Console(stderr=True)):
        adapters = [(method, trained(loop, method, clone, out / method)) for method in arguments.methods]
        adapters.append(("practice in the world (GRPO)", loop.read("candidate").directory / "adapter"))
        before = play(settings, "clone", clone)
        after = [(name, play(settings, name, adapter)) for name, adapter in adapters]
    print(f"seed {settings.seed}, {len(before.success)} episodes\n\n{table(before, after)}\n")
    for name, adapter in adapters:
        facts = manifest_of(adapter) or {}
        print(json.dumps({"method": name, "rows": facts.get("rows"), "value": facts.get("value")}))


if __name__ == "__main__":
    main()
