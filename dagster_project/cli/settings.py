"""`rehearsal settings`: every setting of a home, with its value, its default and its meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.markup import escape

from dagster_project.loop.settings import Settings
from ingest.errors import UserError

NOT_SET = ("home",)
"""Fields that are no setting: they say where settings are."""


@dataclass(frozen=True)
class Setting:
    """One setting: its dotted name, its value and its default as JSON values, and what it means.

    A `group` has no value of its own, only settings below it.
    """

    name: str
    value: Any
    default: Any
    meaning: str
    group: bool = False

    @property
    def changed(self) -> bool:
        return bool(self.value != self.default)


def settings_of(settings: Settings, beginning: str = "") -> list[Setting]:
    """The settings whose dotted names begin so (`train`, `train.loss`). Raises UserError if there is none.

    Fields of the chosen algorithm are listed (`train.loss.form`), not those of the others.
    """
    defaults = type(settings).model_construct()
    found = [s for s in _walk(settings, defaults, "") if f"{s.name}.".startswith(f"{beginning}." if beginning else "")]
    if not found:
        raise UserError(f"there is no setting {beginning!r}; `rehearsal settings` lists all")
    return found


def _walk(model: BaseModel, default: Any, before: str) -> Iterator[Setting]:
    """The settings below a model. `default`: the model with default values, or None if it is of another class."""
    for name, field in type(model).model_fields.items():
        if not before and name in NOT_SET:
            continue
        value, dotted = getattr(model, name), f"{before}{name}"
        usual = getattr(default, name, None) if type(default) is type(model) else _own_default(field)
        if isinstance(value, BaseModel):
            yield Setting(dotted, None, None, field.description or "", group=True)
            yield from _walk(value, usual, f"{dotted}.")
        else:
            shown, expected = (_plain(model, name, one) for one in (value, usual))
            yield Setting(dotted, shown, expected, field.description or "")


def _own_default(field: FieldInfo) -> Any:
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _plain(model: BaseModel, name: str, value: Any) -> Any:
    """A field's value as JSON; a secret as stars."""
    return model.model_copy(update={name: value}).model_dump(mode="json", include={name}).get(name)


def print_settings(settings: Settings, beginning: str, as_json: bool, console: Console) -> None:
    """Print them: name, value and meaning of each, under a line for each group; values that differ from the default are
    marked."""
    found = settings_of(settings, beginning)
    if as_json:
        keys = ("name", "value", "default", "meaning")
        rows = [{key: getattr(setting, key) for key in keys} for setting in found if not setting.group]
        console.print_json(json.dumps(rows))
        return
    for setting in found:
        if setting.group:
            console.print(f"[bold]{setting.name}[/]: {escape(setting.meaning)}", highlight=False, soft_wrap=True)
            continue
        value = json.dumps(setting.value)
        instead = f"   [yellow](default: {escape(json.dumps(setting.default))})[/]" if setting.changed else ""
        console.print(f"[bold]{setting.name}[/] = {escape(value)}{instead}", highlight=False, soft_wrap=True)
        console.print(f"    {escape(setting.meaning)}", highlight=False, soft_wrap=True)
