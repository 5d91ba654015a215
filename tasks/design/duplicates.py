"""Whether a proposed candidate was tried already: refused here, before it costs a worker's time.

Exact is equal in normal form (`Candidate.ast_hash`). Near is the same config, the same names, constants and operators
in the same numbers, and nearly the same order: functions moved or renamed, checks and prints added. One constant or
one operator changed is another experiment, however alike the text.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from tasks.campaign import CandidateRef
from tasks.candidate import FUNCTIONS, Candidate
from tasks.dispatch.pending import pending
from tasks.normal_form import normal_form
from tasks.parsing import parse
from tasks.store.records import ExperimentRecord, Status
from tasks.store.store import Store

# Of the shingles of two programs. Reordering whole functions costs a few shingles at each seam.
NEAR: Final = 0.9
SHINGLE_TOKENS: Final = 5
# Outcomes that leave an idea untried: nobody ran it, or it is its original's.
UNTRIED: Final[tuple[Status, ...]] = ("infrastructure", "duplicate")
UNPARSABLE: Final = (SyntaxError, ValueError, RecursionError, MemoryError)
_TOKEN = re.compile(r"'[^']*'|\w+|[^\w\s,]")


def refusal(candidate: Candidate, known: Mapping[str, Candidate]) -> str:
    """Why `candidate` is not worth a worker's time, in one line; "" where it is new. `known` is by experiment id."""
    alike_in_kind = {name: other for name, other in known.items() if _same_setting(candidate, other)}
    for experiment_id, other in alike_in_kind.items():
        if _same(_normal, candidate, other):
            return f"the same code and config as {experiment_id}, names and layout aside"
    for experiment_id, other in alike_in_kind.items():
        if _same(_words, candidate, other):
            alike = similarity(candidate, other)
            if alike >= NEAR:
                return f"nearly the same as {experiment_id}: {alike:.0%} alike, the same config, names and constants"
    return ""


def duplicates(
    store: Store, campaign: str, refs: Sequence[CandidateRef], records: Sequence[ExperimentRecord]
) -> list[ExperimentRecord]:
    """A final record for each of `refs` that has none yet and says nothing new."""
    tried = {
        record.experiment_id: record.candidate_hash
        for record in records
        if record.kind == "candidate" and record.candidate_hash and record.status not in UNTRIED
    }
    waiting = {ref.experiment_id for ref in pending(refs, records)}
    known = {experiment_id: _load(store, digest) for experiment_id, digest in tried.items()}
    found: list[ExperimentRecord] = []
    for ref in refs:
        if ref.experiment_id not in waiting:
            continue
        candidate = _load(store, ref.candidate_hash)
        reason = refusal(candidate, known)
        if reason:
            found.append(_refused(campaign, ref, candidate, reason))
        else:
            known[ref.experiment_id] = candidate
    return found


def _load(store: Store, digest: str) -> Candidate:
    return Candidate.from_json_bytes(store.get_blob(digest))


def _refused(campaign: str, ref: CandidateRef, candidate: Candidate, reason: str) -> ExperimentRecord:
    now = datetime.now(UTC)
    lineage = candidate.lineage
    paid = lineage.paid if ref.attempt == 1 else None
    return ExperimentRecord(
        campaign=campaign,
        experiment_id=ref.experiment_id,
        iteration=ref.iteration,
        attempt=ref.attempt,
        status="duplicate",
        reason=reason,
        stage="design",
        designer=lineage.designer,
        parents=lineage.parents,
        change_class=lineage.change_class,
        hypothesis=lineage.hypothesis,
        predicted_bd_rate_percent=lineage.predicted_bd_rate_percent,
        predicted_tera_ops_per_frame=lineage.predicted_tera_ops_per_frame,
        candidate_hash=ref.candidate_hash,
        code_hash=candidate.code_hash,
        ast_hash=candidate.ast_hash,
        config_json=json.dumps(candidate.config, sort_keys=True),
        **(paid.model_dump() if paid is not None else {}),
        started_at=now,
        finished_at=now,
    )


def similarity(one: Candidate, other: Candidate) -> float:
    """The share of the shingles of all sources that the two have in common (Jaccard), in [0, 1]."""
    mine, theirs = (
        {(name, shingle) for name, source in candidate.files.items() for shingle in _shingles(source)}
        for candidate in (one, other)
    )
    return len(mine & theirs) / len(mine | theirs) if mine and theirs else 0.0


def _same_setting(one: Candidate, other: Candidate) -> bool:
    return one.files.keys() == other.files.keys() and json.dumps(one.config, sort_keys=True) == json.dumps(
        other.config, sort_keys=True
    )


def _same(view: Callable[[str], object], one: Candidate, other: Candidate) -> bool:
    """Whether all sources are equal in this view of them; never where one cannot be parsed."""
    views = [(view(source), view(other.files[name])) for name, source in one.files.items()]
    return all(mine and mine == theirs for mine, theirs in views)


@lru_cache(maxsize=4096)
def _normal(source: str) -> str:
    try:
        return normal_form(source)
    except UNPARSABLE:
        return ""


@lru_cache(maxsize=4096)
def _words(source: str) -> tuple[tuple[str, int], ...]:
    """Constants, outer names and operators, each with its count."""
    try:
        return tuple(sorted(_counted(_busy(source)).items()))
    except UNPARSABLE:
        return ()


@lru_cache(maxsize=4096)
def _shingles(source: str) -> frozenset[tuple[str, ...]]:
    """Of each function apart: their order means nothing, and their names mean nothing but for the contract's."""
    try:
        tree = _busy(source)
        private = _own(tree) - set(FUNCTIONS.values())
        parts = [_tokens(normal_form(ast.unparse(node)), private) for node in tree.body]
    except UNPARSABLE:
        return frozenset()
    return frozenset(
        tuple(part[start : start + SHINGLE_TOKENS])
        for part in parts
        for start in range(max(1, len(part) - SHINGLE_TOKENS + 1))
    )


def _busy(source: str) -> ast.Module:
    tree = parse(source)
    _Idle().visit(tree)
    return ast.fix_missing_locations(tree)


def _own(tree: ast.Module) -> set[str]:
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def _tokens(dump: str, private: set[str]) -> list[str]:
    return ["'own'" if token.strip("'") in private else token for token in _TOKEN.findall(dump)]


def _counted(tree: ast.Module) -> Counter[str]:
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)} | _own(tree)
    words: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            words[repr(node.value)] += 1
        elif isinstance(node, ast.Attribute):
            words["." + node.attr] += 1
        elif isinstance(node, ast.Name) and node.id not in bound:
            words[node.id] += 1
        elif isinstance(node, ast.operator | ast.unaryop | ast.cmpop | ast.boolop):
            words[type(node).__name__] += 1
    return words


class _Idle(ast.NodeTransformer):
    """Drops what does not change a result: docstrings, annotations, checks, prints, `pass` and `del`."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        printed = isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "print"
        return None if printed or isinstance(node.value, ast.Constant) else node

    def visit_Assert(self, node: ast.Assert) -> None:
        return None

    def visit_Pass(self, node: ast.Pass) -> None:
        return None

    def visit_Delete(self, node: ast.Delete) -> None:
        return None

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        return self.generic_visit(ast.Assign([node.target], node.value, lineno=node.lineno))

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(node.arg, None)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if getattr(node, "body", None) == [] and not isinstance(node, ast.Module):
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node
