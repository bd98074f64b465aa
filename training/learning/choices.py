"""Settings that select one of several classes by the value of a tag, such as `form` of a loss."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, BeforeValidator


def without_defaults_of(default: type[BaseModel], tag: str) -> BeforeValidator:
    """Remove the default class's own values where the tag selects another class.

    pydantic-settings completes a partly given setting from the default's values before it is validated, so that
    `REHEARSAL_TRAIN__LOSS__FORM=gspo` arrives with the fields of the default loss. Fields that both classes have must
    have one default in both.
    """
    known = {name: field.get_default(call_default_factory=True) for name, field in default.model_fields.items()}

    def kept(given: Any) -> Any:
        if not isinstance(given, dict) or given.get(tag, known[tag]) == known[tag]:
            return given
        return {k: v for k, v in given.items() if k == tag or k not in known or v != known[k]}

    return BeforeValidator(kept)
