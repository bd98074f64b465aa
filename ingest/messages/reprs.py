"""Read Python reprs: some instrumentations write ``str(message)`` instead of JSON.

``ToolCall(name='get', arguments={'id': 1})`` becomes ``{"type": "ToolCall", "name": ..., ...}``. Private fields lose
their underscore, and enum members (``<Role.USER: 'user'>``) become their value. The text is only parsed; nothing is
evaluated.
"""

from __future__ import annotations

import ast
import re
from typing import Any

MAX_CHARS = 200_000
_LOOKS = re.compile(r"^\s*\[?\s*[A-Za-z_][\w.]*\(\w+=|^\s*[\[{]\s*['\"\[{]|^\s*\{\s*\}|^\w+='")
_ENUM = re.compile(r"<[\w.]+: ('(?:[^'\\]|\\.)*'|-?\d+)>")
_OBJECT = re.compile(r"<[\w.]+ object at 0x[0-9a-f]+>|<class '[^']*'>|<(?:bound )?(?:function|method) [^<>]*>")
_DECLARED = ("block_type", "part_kind")  # a declared type overrides the class name
_FIELDS = re.compile(r"^\w+='")


def read_repr(text: str) -> Any:
    """Return the value of a Python repr, or None if the text is not a repr."""
    if len(text) > MAX_CHARS or not _LOOKS.match(text):
        return None
    source = _OBJECT.sub("None", _ENUM.sub(r"\1", text.strip()))
    if _FIELDS.match(source):  # pydantic's str(): "id='1' source='user' content='hi'"
        source = f"_({re.sub(r'(?<=[^,(=]) (?=[a-z_]+=)', ', ', source)})"
    try:
        return _value(ast.parse(source, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str | int | float | bool | None) else str(node.value)
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return [_value(x) for x in node.elts]
    if isinstance(node, ast.Dict):
        return {str(_value(k)): _value(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.Call):
        return _object(node)
    if isinstance(node, ast.Name | ast.Attribute):
        return ast.unparse(node)
    raise ValueError("no literal")


def _object(node: ast.Call) -> dict[str, Any]:
    """Return the fields of a constructor call. The class name is the type, unless a field declares one."""
    told = {k.arg.lstrip("_"): _value(k.value) for k in node.keywords if k.arg}
    declared = next((told[k] for k in _DECLARED if isinstance(told.get(k), str)), None)
    fields: dict[str, Any] = {"type": declared or ast.unparse(node.func).rsplit(".", 1)[-1], **told}
    if node.args:
        fields["args"] = [_value(a) for a in node.args]
    return fields
