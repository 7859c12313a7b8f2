"""The reference page of conditions, events and decision reasons.

`scan` reads from the operator's source what can happen; `reasons.py` explains it. The page cannot be built while a
reason has no explanation, or an explanation belongs to no reason.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sponge_docs.markdown import code, front, table
from sponge_docs.reasons import BLOCKED, CONDITIONS, DECISIONS, EVENTS, TROUBLES, WAITS

__all__ = ["Found", "conditions_page", "gaps", "scan"]

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT / "operator" / "sponge_operator", ROOT / "core" / "sponge_core" / "planning")
_REASON = re.compile(r"[A-Z][A-Za-z]+")
_VERDICTS = {"True", "False", "Unknown"}


@dataclass(slots=True)
class Found:
    """What the operator's source can say.

    Attributes:
        conditions: (status, reason) pairs of each condition type.
        blocked: reasons why a pod does not get its size; also the reason of the condition ResizeBlocked.
        events: reasons of Kubernetes events; one that ends in an ellipsis continues with a blocked reason.
        obstacles: what keeps a service from being ready; reasons of the conditions Ready and Synced.
        strings: every constant string of the source.
    """

    conditions: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)
    events: set[str] = field(default_factory=set)
    obstacles: set[str] = field(default_factory=set)
    strings: set[str] = field(default_factory=set)


def conditions_page() -> str:
    """Markdown of the page.

    Raises:
        ValueError: source and explanations differ.
    """
    if missing := gaps(scan()):
        raise ValueError("tools/sponge_docs/reasons.py: " + "; ".join(missing))
    parts = [
        front(
            "Conditions and events",
            "The conditions in the status of a `SpongeService`, the Kubernetes events that the operator posts, and the "
            "reasons of its decisions. `kubectl describe spongeservice NAME` shows them.",
            "the operator's source and `tools/sponge_docs/reasons.py`",
        ),
        "## Conditions",
    ]
    for kind, (text, reasons) in CONDITIONS.items():
        parts += [f"### {kind}", text]
        rows = [(status, code(reason), meaning) for (status, reason), meaning in reasons.items()]
        if kind == "Ready":
            rows += [("False", code(reason), meaning) for reason, meaning in {**WAITS, **TROUBLES}.items()]
        if kind == "Synced":
            rows += [("False", code(reason), meaning) for reason, meaning in TROUBLES.items()]
        parts.append(table(("status", "reason", "meaning"), rows))
        if kind == "ResizeBlocked":
            parts += [
                "With status True the reason is one of these:",
                table(("reason", "meaning and what to do"), ((code(name), text) for name, text in BLOCKED.items())),
            ]
    parts += [
        "## Events",
        table(("type", "reason", "meaning"), ((kind, code(name), text) for name, (kind, text) in EVENTS.items())),
        "The same event about the same thing is not repeated for a while.",
        "## Reasons of decisions",
        "`status.lastDecision.reason`, `status.pods[].reason` and the operator's decision log. A pod whose resize is "
        "blocked shows the blocked reason instead.",
        table(("reason", "meaning"), ((code(name), text) for name, text in DECISIONS.items())),
    ]
    return "\n\n".join(parts) + "\n"


def gaps(found: Found) -> list[str]:
    """What the explanations lack, and what they explain that the source no longer says."""
    told = {kind: set(reasons) for kind, (_, reasons) in CONDITIONS.items()}
    lacks = [f"no explanation of condition {kind}" for kind in found.conditions.keys() - told.keys()]
    for kind, pairs in found.conditions.items():
        lacks += [f"no explanation of {kind} {pair}" for pair in sorted(pairs - told.get(kind, set()))]
    for name, seen, known in (
        ("blocked reason", found.blocked, BLOCKED),
        ("event", found.events, EVENTS),
        ("obstacle", found.obstacles, {**TROUBLES, **WAITS}),
    ):
        lacks += [f"no explanation of {name} {reason}" for reason in sorted(seen - set(known))]
    explained = [*told, *BLOCKED, *TROUBLES, *WAITS, *DECISIONS, *(name for name in EVENTS if "…" not in name)]
    explained += [reason for pairs in told.values() for _, reason in pairs]
    return lacks + [f"{name} is explained, but not in the source" for name in explained if name not in found.strings]


def scan() -> Found:
    """Reads every module of the operator, and the core's decisions."""
    found = Found()
    verdicts: dict[str, set[tuple[str, str]]] = {}
    kinds: dict[str, str] = {}
    for path in sorted(path for folder in SOURCES for path in folder.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            match node:
                case ast.Constant(value=str(text)):
                    found.strings.add(text)
                case ast.FunctionDef(name=name):
                    verdicts.setdefault(name, set()).update(_verdicts(node))
                case ast.Dict():
                    kinds.update(_condition_kinds(node))
                case ast.Call(func=ast.Attribute(attr="emit"), args=[_, reason, *_]):
                    found.events.update(_event(reason))
                case ast.Call(func=ast.Attribute(attr="Blocked") | ast.Name(id="Blocked"), args=[reason, *_]):
                    found.blocked.update(_reasons(reason))
                case ast.Call(func=ast.Name(id="Wait" | "_bound" | "_guessed" | "_pinned"), args=[reason, *_]):
                    found.blocked.update(_reasons(reason))
                case ast.Compare(left=ast.Attribute(attr="reason"), ops=[ast.In()], comparators=[choices]):
                    found.blocked.update(_reasons(choices))
                case ast.Call(func=ast.Name(id="Obstacle"), args=[reason, *_]):
                    found.obstacles.update(_reasons(reason))
    found.conditions = {kind: verdicts[function] for kind, function in kinds.items() if function in verdicts}
    return found


def _condition_kinds(node: ast.Dict) -> Mapping[str, str]:
    """Condition types and the functions that judge them, if this is a dictionary of both."""
    pairs = {}
    for key, value in zip(node.keys, node.values, strict=True):
        match key, value:
            case ast.Constant(value=str(kind)), ast.Call(func=ast.Name(id=function), args=[_]) if _REASON.fullmatch(
                kind
            ):
                pairs[kind] = function
    return pairs if len(pairs) > 2 else {}


def _verdicts(function: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    for node in ast.walk(function):
        match node:
            case ast.Tuple(elts=[ast.Constant(value=str(status)), ast.Constant(value=str(reason)), *_]):
                if status in _VERDICTS:
                    yield status, reason


def _reasons(node: ast.expr) -> Iterator[str]:
    for child in ast.walk(node):
        match child:
            case ast.Constant(value=str(text)) if _REASON.fullmatch(text):
                yield text


def _event(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.JoinedStr(values=[ast.Constant(value=str(start)), *_]):
            yield f"{start}…"
        case _:
            yield from _reasons(node)
