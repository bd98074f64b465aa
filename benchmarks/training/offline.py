"""Offline methods beside practice in the world, in the real environment of a finished demo.

    python -m benchmarks.training.offline --home artifacts/demo          estimated: ten minutes on two idle cores

Every method starts from the demo's clone and learns from the same recorded conversations with outcomes. The adapter of
practice in the world is the demo's candidate. All of them play the same episodes with the same seeds. A method whose
adapter exists below HOME/offline-methods is not trained again. A method that refuses the data is a row with its reason.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter
from rich.console import Console

from dagster_project.loop import fits
from dagster_project.loop.passes import Loop
from dagster_project.loop.recipes import EvaluationRecipe
from dagster_project.loop.settings import Settings
from ingest.errors import UserError
from training.models.lora import manifest_of
from training.policy.evaluate import Run, difference
from training.policy.offline.fit import OfflineMethod, OfflineSettings, fit_offline, rewarded
from training.progress import bars, track

METHODS = ("reward_weighted_sft", "kto", "asymre", "iterative_ppo")


def trained(loop: Loop, method: str, clone: Path, out: Path, tokens: int, steps: int) -> Path:
    """The adapter of one offline method, trained from the clone on `tokens`; iterative_ppo takes `steps`."""
    if manifest_of(out) is None:
        settings = loop.settings
        tables = loop.read("data").directory
        more: dict[str, object] = {"steps": steps, "value": {"max_tokens": tokens}}
        told: dict[str, object] = {"method": method, **(more if method == "iterative_ppo" else {})}
        chosen: OfflineMethod = TypeAdapter(OfflineMethod).validate_python(told)
        fit = settings.offline.fit.model_copy(update={"max_tokens": tokens})
        report = track(f"offline training: {method}")
        fit_offline(
            fits.policy_base(settings), rewarded(fits.conversations(tables, settings.agent)), clone, out,
            OfflineSettings(loss=chosen, fit=fit), show_system=loop.show_system, seed=settings.seed,
            checkpoint=out.with_name(f"{out.name}.pt"),
            on_progress=lambda done, metrics: report(int(100 * done), 100, ""),
        )  # fmt: skip
    return out


def played(loop: Loop, adapters: Mapping[str, Path], episodes: int, stream: int | None = None) -> list[Run]:
    """Each adapter's run in the real environment, on the same episodes: those of `stream`, default the home's seed."""
    settings, how = loop.settings, loop.settings.evaluation
    recipe = EvaluationRecipe(
        settings.base, settings.engine, settings.compact, loop.show_system, settings.environment, adapters, episodes,
        settings.seed if stream is None else stream, how.temperature, how.min_p, loop.limits, settings.vllm,
        settings.chat,
    )  # fmt: skip
    report = track("episodes in the real environment")
    return asyncio.run(loop.play(recipe, report))


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
    parser.add_argument("--tokens", type=int, default=600_000, help="tokens of each fit, the value model's too")
    parser.add_argument("--steps", type=int, default=24, help="optimizer steps of iterative_ppo")
    parser.add_argument("--episodes", type=int, default=300, help="episodes of each policy")
    arguments = parser.parse_args()
    settings, began = Settings(home=arguments.home), time.monotonic()
    if not (arguments.home / "report.json").exists():
        raise UserError(f"{arguments.home} holds no finished demo; run `rehearsal demo --home {arguments.home}` first")
    loop = Loop(settings)
    clone = loop.read("clone").directory / "adapter"
    out = arguments.home / "offline-methods" / f"{arguments.tokens}-{arguments.steps}"
    adapters, refused = {"clone": clone}, dict[str, str]()
    with bars(Console(stderr=True)):
        for method in arguments.methods:
            try:
                adapters[method] = trained(loop, method, clone, out / method, arguments.tokens, arguments.steps)
            except UserError as error:  # iterative_ppo refuses a value model that predicts nothing
                refused[method] = str(error)
        adapters["practice in the world (GRPO)"] = loop.read("candidate").directory / "adapter"
        before, *after = played(loop, adapters, arguments.episodes)
    took = f"{(time.monotonic() - began) / 60:.0f} minutes"
    print(f"seed {settings.seed}, {len(before.success)} episodes each, {took}\n")
    print(table(before, list(zip(list(adapters)[1:], after, strict=True))))
    print("".join(f"| {method} | refused: {why} | |\n" for method, why in refused.items()))
    for name, adapter in adapters.items():
        facts = manifest_of(adapter) or {}
        print(json.dumps({"method": name, "rows": facts.get("rows"), "value": facts.get("value")}))


if __name__ == "__main__":
    main()
