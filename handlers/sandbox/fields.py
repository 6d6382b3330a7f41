"""Spotify's ``fields`` parameter: ``total,items(added_at,track(id))``, dots for one level, ``!`` to leave out.

Source:
    The description of ``fields`` in Spotify's Web API reference, Get Playlist Items.
"""

from __future__ import annotations

from typing import Any

# A field to what is wanted of it; an empty tree wants all of it.
Tree = dict[str, "Tree"]


def parse(text: str) -> Tree:
    """Read a filter.

    Raises:
        ValueError: A parenthesis is missing or a name is empty.
    """
    tree, rest = _parse_list(text)
    if rest:
        raise ValueError("unbalanced parentheses")
    return tree


def select(value: Any, tree: Tree) -> Any:
    """Return *value* with only what *tree* wants; lists are filtered entry by entry."""
    if not tree:
        return value
    if isinstance(value, list):
        return [select(one, tree) for one in value]
    if not isinstance(value, dict):
        return value
    excluded = {name[1:] for name in tree if name.startswith("!")}
    if excluded:
        return {name: one for name, one in value.items() if name not in excluded}
    return {name: select(value[name], wanted) for name, wanted in tree.items() if name in value}


def _parse_list(text: str) -> tuple[Tree, str]:
    tree: Tree = {}
    is_excluding = text.startswith("!")
    while True:
        end = next((at for at, char in enumerate(text) if char in ",()"), len(text))
        path, text = text[:end].strip(), text[end:]
        names = path.split(".")
        if not all(name.lstrip("!") for name in names):
            raise ValueError("empty field name")
        leaf = tree
        for name in names:
            leaf = leaf.setdefault(
                f"!{name}" if is_excluding and not name.startswith("!") and leaf is tree else name, {}
            )
        if text.startswith("("):
            inner, text = _parse_list(text[1:])
            if not text.startswith(")"):
                raise ValueError("unbalanced parentheses")
            leaf.update(inner)
            text = text[1:]
        if not text.startswith(","):
            return tree, text
        text = text[1:]
