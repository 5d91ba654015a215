"""Source code without what does not change what it does: names of variables, comments, docstrings, layout.

Two candidates of one normal form are the same idea, and the second is not worth its GPU seconds. Whoever wants to can
still write one idea in two forms: this saves money and protects nothing.
"""

from __future__ import annotations

import ast

from tasks.parsing import parse


def normal_form(source: str) -> str:
    """The same text for the same program. Raises SyntaxError and what else `ast.parse` raises."""
    tree = parse(source)
    kept = _fixed_names(tree)
    return ast.dump(_Renamer(kept).visit(tree), annotate_fields=False)


def _fixed_names(tree: ast.Module) -> set[str]:
    """Names that mean something outside of this file: what is imported or looked up, and is never assigned to."""
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
    # A keyword argument may name a parameter: a parameter that is used so keeps its name.
    keywords = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg}
    top_level = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return (names - bound) | keywords | top_level


class _Renamer(ast.NodeTransformer):
    """Gives variables numbers in the order in which they are met, and drops docstrings and annotations."""

    def __init__(self, kept: set[str]) -> None:
        self._kept = kept
        self._numbers: dict[str, str] = {}

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self._renamed(node.id), node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(self._renamed(node.arg), None)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant):
            return None  # a docstring, or another text that nobody reads
        return self.generic_visit(node)

    def _renamed(self, name: str) -> str:
        if name in self._kept:
            return name
        return self._numbers.setdefault(name, f"v{len(self._numbers)}")
