"""What a base's directory declares decides its chat format: not its name, and not a token that it happens to have."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from template_samples import CHATML, FAMILIES, HERMES, REFUSED, byte_tokenizer, tokenizer_of

from dagster_project.loop.settings import Settings
from ingest.errors import UserError
from training.models.base import base_path, is_compact, load_format
from training.models.chat import SPECIAL_TOKENS, CompactFormat
from training.models.template import TemplateFormat
from training.tiny.pretraining.tokenizer import train_tokenizer


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The shipped base without its weights, in a directory of another name."""
    weights = shutil.ignore_patterns("*.safetensors")
    return shutil.copytree(base_path("rehearsal-tiny"), tmp_path / "fine-tuned", ignore=weights)


def test_a_renamed_copy_of_the_shipped_base_has_its_format(copy: Path, tmp_path: Path) -> None:
    assert isinstance(load_format(str(copy)), CompactFormat)
    for base in (str(copy), "rehearsal-tiny"):
        assert is_compact(base) and Settings(home=tmp_path / "home", base=base).compact


def test_a_tokenizer_that_is_trained_and_saved_declares_it(tmp_path: Path) -> None:
    train_tokenizer(["paint the wall"] * 9, 300).save_pretrained(tmp_path / "new")
    assert is_compact(str(tmp_path / "new"))


def test_a_tokenizer_with_a_template_and_a_token_of_the_compact_format_has_the_format_of_its_template(
    tmp_path: Path,
) -> None:
    other = byte_tokenizer(FAMILIES["qwen2.5"].template(), (*CHATML, *SPECIAL_TOKENS), HERMES, eos_token="<|im_end|>")
    other.save_pretrained(tmp_path / "other")
    assert not is_compact(str(tmp_path / "other")) and not Settings(base=str(tmp_path / "other")).compact
    assert isinstance(load_format(str(tmp_path / "other")), TemplateFormat)


def test_gpt_oss_which_has_a_call_token_is_refused_for_its_template(tmp_path: Path) -> None:
    tokenizer_of(REFUSED["gpt-oss"][0]).save_pretrained(tmp_path / "gpt-oss")
    with pytest.raises(UserError, match="cannot be parsed"):
        load_format(str(tmp_path / "gpt-oss"))


def test_a_base_that_is_not_there_is_not_compact() -> None:
    assert not is_compact("/no/such/model")
