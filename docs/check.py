"""Compare the tables of state-machine.md with the code; with ``--write`` bring them up to date."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from jobqueue.model.breaker import TRANSITIONS as BREAKER
from jobqueue.model.job import TRANSITIONS as JOB

FILE = Path(__file__).with_name("state-machine.md")


def table(transitions: Iterable[tuple[tuple[StrEnum, StrEnum], StrEnum]]) -> str:
    """The transitions as a Markdown table."""
    rows = [f"| `{start}` | {event} | `{end}` |" for (start, event), end in transitions]
    return "\n".join(["| from | event | to |", "|---|---|---|", *rows])


def main() -> int:
    """0 when the document and the code agree."""
    old = FILE.read_text("utf-8")
    new = old
    for name, found in (("job", table(JOB.items())), ("breaker", table(BREAKER.items()))):
        block = f"<!-- {name} -->\n{found}\n<!-- end -->"
        new = re.sub(rf"<!-- {name} -->\n.*?<!-- end -->", lambda _, block=block: block, new, flags=re.DOTALL)  # type: ignore[misc]
    if "--write" in sys.argv:
        FILE.write_text(new, "utf-8")
    elif new != old:
        print(f"{FILE} and the code disagree; run: python docs/check.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
