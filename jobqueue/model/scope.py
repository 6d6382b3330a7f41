"""What a limit is counted under."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from jobqueue.errors import InvalidInputError


class ScopeKind(StrEnum):
    """The levels limits are kept at, outermost first."""

    PROVIDER = "provider"
    OPERATION = "operation"
    ACCOUNT = "account"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a limit is counted under.

    A request of a job carries all three; each of its limits is counted under one `level` of it.

    Attributes:
        provider: The provider's name; holds no ``/``, ``:``, ``{``, ``}`` or white space.
        account: Whose quota, or which site, below the provider; empty for the provider itself.
        operation: What is asked of the provider, shared by all accounts; empty for any. Spelt like a provider.

    Raises:
        InvalidInputError: The provider's name is empty, or it or the operation's holds a character it may not.
    """

    provider: str
    account: str = ""
    operation: str = ""

    def __post_init__(self) -> None:
        for field, name in (("provider", self.provider), ("operation", self.operation)):
            if (field == "provider" and not name) or any(c in "/:{}" or c.isspace() for c in name):
                raise InvalidInputError(
                    f"{field} {name!r} cannot name a rate-limit scope.",
                    remedy="Use a name without slash, colon, brace or white space, such as"
                    f" {'spotify' if field == 'provider' else 'unsave_tracks'}.",
                    field=field,
                )

    @classmethod
    def parse(cls, name: str) -> Scope:
        """Read ``provider[:operation][/account]``; everything after the first slash is the account.

        Raises:
            InvalidInputError: It is no such name.
        """
        head, _, account = name.partition("/")
        provider, _, operation = head.partition(":")
        return cls(provider, account, operation)

    @property
    def name(self) -> str:
        """``spotify``, ``spotify/account-7``, ``spotify:unsave_tracks`` or ``spotify:unsave_tracks/account-7``."""
        operation = f":{self.operation}" if self.operation else ""
        return f"{self.provider}{operation}/{self.account}" if self.account else f"{self.provider}{operation}"

    def level(self, kind: ScopeKind) -> Scope:
        """What limits of *kind* are counted under for this scope; the provider where it has no such part."""
        match kind:
            case ScopeKind.OPERATION:
                return Scope(self.provider, operation=self.operation)
            case ScopeKind.ACCOUNT:
                return Scope(self.provider, self.account)
            case ScopeKind.PROVIDER:
                return Scope(self.provider)

    def levels(self) -> tuple[Scope, ...]:
        """All scopes a limit on it may be counted under, outermost first."""
        return tuple(dict.fromkeys(self.level(kind) for kind in ScopeKind))

    def parents(self) -> tuple[Scope, ...]:
        """The levels around this one, outermost first; empty for a provider."""
        return tuple(level for level in self.levels() if level != self)
