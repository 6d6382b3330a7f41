"""Names of scopes, and the levels whose limits hold for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobqueue.errors import ConfigurationError, InvalidInputError
from jobqueue.model.limit import ProviderLimits, RateLimitConfig, Scope, ScopeKind

plain = st.text(st.characters(exclude_characters="/:{}", exclude_categories=("C", "Z")), max_size=8)
accounts = st.text(st.sampled_from("ab/:{}. _%é"), max_size=6)
scopes = st.builds(Scope, plain.filter(bool), accounts, plain)

few = st.sampled_from(["", "a", "b"])
levels = st.tuples(st.sampled_from(ScopeKind), few).filter(
    lambda level: bool(level[1]) if level[0] is ScopeKind.OPERATION else level[0] is ScopeKind.ACCOUNT or not level[1]
)
windows = st.sampled_from(["", "1/second", "2/second", "5/minute", "1/second; 5/minute"])
configurations = st.dictionaries(levels, windows).map(
    lambda found: tuple(RateLimitConfig(kind, text, scope_name=name) for (kind, name), text in found.items())
)


@given(scopes)
def test_a_name_is_read_back_as_the_scope_it_came_from(scope: Scope) -> None:
    """Whatever the account holds: it is all that follows the first slash."""
    assert Scope.parse(scope.name) == scope


@given(scopes, scopes)
def test_two_scopes_never_share_a_name(one: Scope, other: Scope) -> None:
    """What is stored under a name belongs to one scope."""
    assert (one.name == other.name) == (one == other)


@given(scopes)
def test_levels_go_from_the_provider_inward_and_hold_each_part_alone(scope: Scope) -> None:
    """An operation's level is shared by all accounts, an account's by all operations."""
    found = scope.levels()
    assert found[0] == Scope(scope.provider)
    assert found[1:] == tuple(
        level
        for level in (Scope(scope.provider, operation=scope.operation), Scope(scope.provider, scope.account))
        if level != found[0]
    )
    assert scope.parents() == tuple(level for level in found if level != scope)


@pytest.mark.parametrize("name", ["", "/a", ":op", "a:b:c", "a:b{", "a b", "a}:b", "a:b c/d", "a:\t"])
def test_what_could_move_a_key_is_no_scope(name: str) -> None:
    """The error names the part that is wrong."""
    with pytest.raises(InvalidInputError, match="cannot name a rate-limit scope"):
        Scope.parse(name)


@given(configurations, few, few)
def test_an_override_takes_the_place_of_the_default_of_its_kind_as_a_whole(
    configs: tuple[RateLimitConfig, ...], account: str, operation: str
) -> None:
    """The levels of a scope, found by looking through all configurations, are those found by index."""

    def configured(kind: ScopeKind, name: str) -> RateLimitConfig | None:
        return next((c for c in configs if (c.scope_kind, c.scope_name) == (kind, name)), None)

    found = ProviderLimits("spotify", configs).limits_for(Scope("spotify", account, operation))
    of_account = configured(ScopeKind.ACCOUNT, account) or configured(ScopeKind.ACCOUNT, "")
    expected = [(Scope("spotify"), configured(ScopeKind.PROVIDER, "") or RateLimitConfig())]
    if operation and (config := configured(ScopeKind.OPERATION, operation)):
        expected.append((Scope("spotify", operation=operation), config))
    if account and of_account:
        expected.append((Scope("spotify", account), of_account))
    assert [(level.scope, level.windows) for level in found] == [
        (scope, config.parsed_windows()) for scope, config in expected
    ]


@given(configurations, configurations)
def test_the_fingerprint_tells_what_is_counted_and_nothing_else(
    one: tuple[RateLimitConfig, ...], other: tuple[RateLimitConfig, ...]
) -> None:
    """Limits that count the same for every scope keep their counts, however large they are; all others do not."""

    def counted(configs: tuple[RateLimitConfig, ...]) -> object:
        limits = ProviderLimits("spotify", configs)
        found = [limits.limits_for(Scope("spotify", a, o)) for a in ("", "a", "b", "c") for o in ("", "a", "b")]
        return [[(level.scope, sorted(window.id for window in level.windows)) for level in each] for each in found]

    same = ProviderLimits("spotify", one).fingerprint == ProviderLimits("spotify", other).fingerprint
    # A level that counts nothing needs no count: with or without it nothing is missing.
    assert not same or _without_empty(counted(one)) == _without_empty(counted(other))
    if counted(one) == counted(other) and not _overrides(one) and not _overrides(other):
        assert same


def _without_empty(found: object) -> object:
    assert isinstance(found, list)
    return [[level for level in each if level[1]] for each in found]


def _overrides(configs: tuple[RateLimitConfig, ...]) -> bool:
    return any(config.scope_name for config in configs)


def test_limits_alone_do_not_change_what_is_counted() -> None:
    """A changed number, or an override with another number over the same time, needs no count anew."""
    account = RateLimitConfig(ScopeKind.ACCOUNT, "5/minute")
    before = ProviderLimits("spotify", (RateLimitConfig(windows="1/second"), account))
    after = ProviderLimits(
        "spotify",
        (
            RateLimitConfig(windows="9/second"),
            account,
            RateLimitConfig(ScopeKind.ACCOUNT, "70/minute", scope_name="big"),
        ),
    )
    assert before.fingerprint == after.fingerprint == "provider=r1;account=r60"
    other = RateLimitConfig(ScopeKind.ACCOUNT, "70/hour", scope_name="big")
    assert ProviderLimits("spotify", (*before.configs, other)).fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"scope_kind": ScopeKind.OPERATION}, "scope_name ''"),
        ({"scope_name": "a"}, "scope_name 'a'"),
        ({"learned_floor": 0}, "learned_floor 0"),
    ],
)
def test_a_configuration_that_fits_no_level_is_refused(values: dict[str, object], words: str) -> None:
    """An operation's limits name it, the provider's name nothing."""
    with pytest.raises(ConfigurationError, match=words):
        RateLimitConfig(**values)  # type: ignore[arg-type]


def test_an_operation_that_no_scope_could_name_is_refused() -> None:
    """It would be counted under a name that reads as another."""
    with pytest.raises(InvalidInputError, match="operation 'a/b'"):
        ProviderLimits("spotify", (RateLimitConfig(ScopeKind.OPERATION, scope_name="a/b"),))
