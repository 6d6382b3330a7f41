"""What a limit is counted under."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from jobqueue.errors import InvalidInputError


class ScopeKind(StrEnum):
    """The two levels limits are kept at."""

    PROVIDER = "provider"
    ACCOUNT = "account"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a limit is counted under.

    Attributes:
        provider: The provider's name; holds no ``/``, ``{``, ``}`` or white space.
        account: Whose quota, or which site, below the provider; empty for the provider itself.

    Raises:
        InvalidInputError: The provider's name is empty or holds a character it may not.
    """

    provider: str
    account: str = ""

    def __post_init__(self) -> None:
        if not self.provider or any(c in "/{}" or c.isspace() for c in self.provider):
            raise InvalidInputError(
                f"provider {self.provider!r} cannot name a rate-limit scope.",
                remedy="Use a name without slash, brace or white space, such as spotify.",
                field="provider",
            )

    @classmethod
    def parse(cls, name: str) -> Scope:
        """Read ``spotify`` or ``spotify/account-7``; everything after the first slash is the account."""
        provider, _, account = name.partition("/")
        return cls(provider, account)

    @property
    def name(self) -> str:
        """``spotify`` or ``spotify/account-7``."""
        return f"{self.provider}/{self.account}" if self.account else self.provider

    def parents(self) -> tuple[Scope, ...]:
        """The scopes around this one, outermost first; empty for a provider."""
        return (Scope(self.provider),) if self.account else ()
