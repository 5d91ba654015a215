"""What of codec/ a candidate may import, as a list of signatures, read from the sources themselves.

Nothing is imported: the process that designs never loads torch. What a candidate may not import is `tasks.lint`'s.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import codec

# Files, processes and errors: nothing that an agent in the sandbox calls.
LEFT_OUT: Final = ("demo_clip", "errors", "video", "whole_file", "strategies.vvc_encoder", "rate_control", "effort")


@cache
def codec_api() -> str:
    """One section a module: its name, what it is for, and each public function and class with its first sentence."""
    root = Path(codec.__file__).parent
    sections = []
    for path in sorted(root.rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        if name and name not in LEFT_OUT:
            lines = list(_of_module(ast.parse(path.read_text(encoding="utf-8"))))
            if lines:
                sections.append("\n".join([f"# codec.{name}", *lines]))
    return "\n\n".join(sections)


def _of_module(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield _function(node, "")
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield f"class {node.name}:{_said(node)}"
            yield from _of_class(node)


def _of_class(node: ast.ClassDef) -> Iterator[str]:
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and part.target.id[0] != "_":
            default = f" = {ast.unparse(part.value)}" if isinstance(part.value, ast.Constant) else ""
            yield f"    {part.target.id}: {ast.unparse(part.annotation)}{default}"
        elif isinstance(part, ast.FunctionDef) and (part.name == "__init__" or part.name[0] != "_"):
            yield _function(part, "    ")


def _function(node: ast.FunctionDef, indent: str) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None and node.name != "__init__" else ""
    return f"{indent}def {node.name}({ast.unparse(node.args)}){returns}{_said(node)}"


def _said(node: ast.FunctionDef | ast.ClassDef) -> str:
    text = ast.get_docstring(node)
    return f"  # {text.splitlines()[0]}" if text else ""
