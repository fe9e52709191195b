"""Reading YAML as a person means it.

PyYAML knows YAML 1.1, in which ``off``, ``2024-01-01``, ``1:30`` and ``010`` are a truth value, a date, 90 and 8. Here
they are text, as in YAML 1.2: a key that wants a truth value takes ``off`` as one, and a key that wants a number
refuses what could be two (:class:`spikesearch.config.data.Section`).
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError

_MERGE, _BOOL, _INT, _FLOAT = (f"tag:yaml.org,2002:{name}" for name in ("merge", "bool", "int", "float"))
_PATTERNS = {
    _BOOL: (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    _INT: (r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)", "-+0123456789"),
    _FLOAT: (
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
}
_KEPT = {_MERGE, "tag:yaml.org,2002:null"}


def read_yaml(text: str) -> Any:
    """Return what a YAML document holds, in plain types.

    Raises:
        yaml.YAMLError: If it is malformed, holds what is not plain, or repeats a key.
        ValueError: If it holds a number that Python cannot read, or an alias of what it is a part of.
        RecursionError: If it is nested without end.
    """
    content = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    json.dumps(content, default=str, skipkeys=True)  # finds circles
    return content


class _Loader(yaml.SafeLoader):
    """yaml.SafeLoader with the scalars of YAML 1.2 that refuses repeated keys instead of keeping the last one."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._repeated: list[yaml.Node] = []

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (KeyError, IndexError, AttributeError):  # of a tag that says what the value is not, such as !!bool x
            told = f"{node.value!r} is not what its tag says (line {node.start_mark.line + 1})"
            raise ConstructorError(None, None, told) from None

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if self._repeated:
            places = sorted((key.start_mark.line + 1, key.value) for key in self._repeated)
            told = ", ".join(f"the key {key!r} is repeated (line {line})" for line, key in places)
            raise ConstructorError(None, None, told)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    self._repeated.append(key)
                seen.add((key.tag, key.value))
        return node


_Loader.yaml_implicit_resolvers = {
    first: kept
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if (kept := [(tag, pattern) for tag, pattern in resolvers if tag in _KEPT])
}
for _tag, (_pattern, _first) in _PATTERNS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list(_first))
