"""Draws the losses and accuracies of a pre-training run.

    python -m training.tiny.pretraining.plot training/tiny/rehearsal-tiny/history.jsonl docs/tiny-loss.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

COLOURS = {"copy": "#7a8fa6", "choose": "#2b7a5b", "units": "#b08a2e", "amounts": "#7d5fa8", "world": "#c2572b"}


def plot_history(history: Path, target: Path) -> None:
    """Write an SVG: loss and accuracy of each kind of batch, the hardness of choosing, and where phases begin.

    Equal histories give equal files.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rehearsal-tiny"
    from matplotlib import pyplot

    lines = [json.loads(line) for line in history.read_text().splitlines()]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), sharex=True)
    for name, colour in COLOURS.items():
        chosen = [x for x in lines if name in x]
        steps = [x["step"] for x in chosen]
        left.plot(steps, [x[name]["loss"] for x in chosen], color=colour, label=name)
        right.plot(steps, [x[name]["accuracy"] for x in chosen], color=colour, label=name)
    right.plot([x["step"] for x in lines], [x["hardness"] for x in lines], color="#2b7a5b", ls=":", label="hardness")
    for axes in (left, right):
        for step in phase_starts(lines):
            axes.axvline(step, color="#cccccc", lw=0.8, zorder=0)
    left.set(xlabel="step", ylabel="loss on learned tokens", ylim=(0, 2))
    right.set(xlabel="step", ylabel="accuracy", ylim=(0, 1))
    right.legend(frameon=False, fontsize="small")
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


def phase_starts(lines: list[dict[str, Any]]) -> list[int]:
    """The logged steps after which another phase was running."""
    return [a["step"] for a, b in zip(lines, lines[1:], strict=False) if a["phase"] != b["phase"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("history", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    plot_history(arguments.history, arguments.target)


if __name__ == "__main__":
    main()
