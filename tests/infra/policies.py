"""Answers whether a role's policies allow a call, as IAM does: a Deny beats an Allow, and nothing is allowed unsaid.

Owns the part of the policy language that infra/evocodec.yaml uses and refuses any other, so that no condition is passed
over in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any


def allows(
    documents: Iterable[Mapping[str, Any]], action: str, resource: str, context: Mapping[str, str] | None = None
) -> bool:
    """`context` holds the condition keys of the call; without others it is made over TLS."""
    known = {"aws:SecureTransport": "true"} | dict(context or {})
    verdict = False
    for document in documents:
        for statement in document["Statement"]:
            if not _names(statement["Action"], action) or not _names(statement["Resource"], resource):
                continue
            if all(_holds(operator, keys, known) for operator, keys in statement.get("Condition", {}).items()):
                if statement["Effect"] == "Deny":
                    return False
                verdict = True
    return verdict


def _names(patterns: str | list[str], value: str) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns))


def _holds(operator: str, keys: Mapping[str, Any], known: Mapping[str, str]) -> bool:
    if operator == "Null":
        return all((key not in known) == (str(wanted).lower() == "true") for key, wanted in keys.items())
    if operator not in ("StringEquals", "StringLike", "ArnEquals", "Bool"):
        raise ValueError(f"the condition operator {operator} is not known here")
    for key, wanted in keys.items():
        values = [str(value).lower() if operator == "Bool" else str(value) for value in _listed(wanted)]
        if key not in known or not any(fnmatchcase(known[key], value) for value in values):
            return False
    return True


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
