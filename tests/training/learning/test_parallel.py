"""Two processes under `accelerate launch` learn what one learns, with the base whole (DDP) and sharded (FSDP2)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import json, sys
from pathlib import Path

import torch
from training_samples import random_rows, stir, tiny_base

from training.learning.learner import Learner, LearnerSettings
from training.learning.policy_losses import Cispo
from training.models.devices import DeviceSettings, placement
from training.models.lora import LoraSettings, save_weights
from training.models.parallel import is_first, processes

torch.set_num_threads(1)
placement(DeviceSettings(device="cpu"))
base = tiny_base()
how = LearnerSettings(lora=LoraSettings(rank=4, alpha=8), learning_rate=1e-2, micro_tokens=64, bf16=False)
how = how.model_copy(update={"shard": sys.argv[2] == "shard"})
learner = Learner(base, how)
stir(learner)
learner.keep_reference()
size = base.model.config.vocab_size
rows = random_rows(7, size, seed=0 if is_first() else 99)  # the others' samples do not count
for step in range(3):
    metrics = learner.policy_step(rows, Cispo(kl_penalty=0.1))
    metrics = {**learner.policy_step(random_rows(1, size, seed=step), Cispo(kl_penalty=0.1)), "first": metrics["loss"]}
metrics["held_out"] = learner.evaluate(random_rows(5, size, seed=3))
out = Path(sys.argv[1])
save_weights(*learner.weights(), out / "adapter", {"processes": processes()})
sharded = sum("DTensor" in type(p).__name__ for p in learner.model.parameters())
frozen = [p for p in base.model.get_decoder().layers.parameters() if not p.requires_grad]
assert sharded == (len(frozen) if sys.argv[2] == "shard" else 0)
(out / f"metrics-{'first' if is_first() else 'other'}.json").write_text(json.dumps(metrics))
"""


def run(tmp_path: Path, count: int, held: str = "whole") -> Path:
    """The adapter and the metrics of `count` processes, each of which holds the base `whole` or a `shard` of it."""
    script, out = tmp_path / "learn.py", tmp_path / f"{count}-{held}"
    script.write_text(SCRIPT)
    out.mkdir()
    here = Path(__file__).parents[3]
    path = os.pathsep.join([str(here), str(here / "tests")])
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(count)]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [sys.executable, *(launch if count > 1 else []), str(script), str(out), held]
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("held", ["whole", "shard"])
def test_two_processes_reach_the_same_weights_as_one(tmp_path: Path, held: str) -> None:
    alone, together = run(tmp_path, 1), run(tmp_path, 2, held)
    assert json.loads((together / "adapter" / "rehearsal.json").read_text()) == {"processes": 2}
    one, two = (load_file(p / "adapter" / "adapter_model.safetensors") for p in (alone, together))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=3e-5), name  # 2.1e-5 on a CPU without AVX-512
    wanted = json.loads((alone / "metrics-first.json").read_text())
    for who in ("first", "other"):
        found = json.loads((together / f"metrics-{who}.json").read_text())
        assert found.keys() == wanted.keys()
        assert all(abs(found[k] - wanted[k]) < 1e-4 for k in wanted), (found, wanted)
