"""What a handler and a provider look like to the engine.

A handler turns the items of ONE request into that request. The engine owns everything around it: limits, leases,
intents, the journal, retries and outcomes. A request with a before-state passes through four calls::

    observe_step(call)    read the before-state                      (a request, seldom several)
    decide(call, before)  which items need an effect at all          (pure)
                          … the engine commits intent and journal …
    apply(call)           the effect                                 (a request)
    probe(call)           after a crash or an unanswered request of an operation that is not idempotent: did it take
    effect?

A handler raises the errors of `jobqueue.errors.HandlerError`; anything else is taken for a bug of the handler.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jobqueue.errors import ConfigurationError, InvalidInputError
from jobqueue.model.item import Item, ItemOutcome, JournalEntry, State
from jobqueue.model.job import Job, JobRequest
from jobqueue.model.label import ConcurrencyLimit
from jobqueue.model.quota import HeaderFormat
from jobqueue.notes import AnswerNotes


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing a provider can do to items.

    Attributes:
        name: Such as ``unsave_tracks``.
        columns: Input columns, the key column first.
        max_size: Most items the provider takes in one request.
        undo: Name of the operation that restores the before-state; None when nothing can.
        is_observed: Whether the before-state is read and journalled before the effect.
        is_idempotent: Whether repeating the very same request is harmless.
        is_ordered: Whether requests must follow one another, one at a time, in item order.
        required_options: Options a job must give, such as ``playlist``.
        cost_units: What one effect request costs in the provider's units.
        observe_cost_units: What one observe request costs.
        deadline_s: Seconds one effect request may take in total; at most 12.
    """

    name: str
    columns: tuple[str, ...]
    max_size: int
    undo: str | None = None
    is_observed: bool = True
    is_idempotent: bool = True
    is_ordered: bool = False
    required_options: tuple[str, ...] = ()
    cost_units: int = 1
    observe_cost_units: int = 1
    deadline_s: float = 12.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a provider is reached and as whom. The token stays out of `repr`."""

    base_url: str
    token_url: str = ""
    access_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """Everything one request needs.

    Attributes:
        items: The items of this request, in order.
        before: The recorded before-state of each item; empty until `observe` has run, and for operations that are
            not observed.
        after: The expected state after the effect, as `decide` gave it, parallel to *before*.
        idempotency_key: The same for every repetition of this request.
        deadline_s: Seconds this request may take in total, connection and body included.
        attempt: Counted from 1.
        notes: Where the answer's headers go: ``call.notes.headers(response.headers)``; the limiter follows them.
    """

    job: Job
    operation: Operation
    provider: Provider
    endpoint: Endpoint
    items: tuple[Item, ...]
    idempotency_key: str
    deadline_s: float
    attempt: int = 1
    before: tuple[State, ...] = ()
    after: tuple[State, ...] = ()
    notes: AnswerNotes = field(default_factory=AnswerNotes, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Reading:
    """How far an observation has come after one request.

    Attributes:
        states: The state of each item, once it is complete; None while another request is needed.
        carry: What the next step continues from, as JSON, about as large as the batch; it is stored.
    """

    states: tuple[State, ...] | None = None
    carry: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Effect:
    """The item needs the effect; *after* is the state it is expected to leave."""

    after: State


Decision = Effect | ItemOutcome


@runtime_checkable
class Provider(Protocol):
    """A provider as the engine sees it; found by the entry point group ``jobqueue.providers`` and instantiated
    without arguments.

    It may also have ``quota_headers``, a `HeaderFormat`, where its rate-limit headers need explaining.
    """

    name: str
    operations: Mapping[str, Operation]


class JobHandler(Protocol):
    """A job type; found by the entry point group ``jobqueue.handlers`` and instantiated without arguments.

    One instance serves all threads of a process: keep no state of a request on it.
    """

    job_type: str

    def operation(self, request: JobRequest, provider: Provider) -> Operation:
        """The operation *request* means.

        Raises:
            InvalidInputError: Unknown operation, missing or unknown option.
        """

    def read_item(
        self, request: JobRequest, operation: Operation, row: Mapping[str, str]
    ) -> tuple[str, dict[str, Any]]:
        """Key (canonical) and payload of one input row, keyed by the operation's columns.

        Raises:
            InvalidInputError: The row's value is wrong; *field* names the column.
        """

    def fits(self, operation: Operation, items: Sequence[Item]) -> int:
        """How many leading *items* one request can carry, at least 1."""

    def observe_step(self, call: Call, carry: Mapping[str, Any]) -> Reading:
        """One request of reading the state of each of the call's items; *carry* is what the step before returned."""

    def decide(self, call: Call, before: Sequence[State]) -> Sequence[Decision]:
        """For each item an `Effect`, or the outcome it gets without one. Pure."""

    def apply(self, call: Call) -> Sequence[ItemOutcome]:
        """Carry out the effect with ONE request; the outcome of each item, in order."""

    def probe(self, call: Call) -> Sequence[ItemOutcome | None]:
        """For each item: its outcome if it can be known, None when the effect certainly did not take place."""

    def plan_undo(
        self, operation: Operation, provider: Provider, entries: Iterable[JournalEntry]
    ) -> Iterable[UndoItem]:
        """The items of a rollback, in the order they must be undone.

        Args:
            operation: The operation that was applied.
            provider: Its provider.
            entries: The journal, latest effect first, streamed.
        """


@dataclass(frozen=True, slots=True)
class UndoItem:
    """One item of a rollback: what to restore, and what the undone effect had left."""

    key: str
    payload: Mapping[str, Any]


class BaseHandler:
    """Defaults for handlers whose operations are not observed and are idempotent.

    Attributes:
        concurrency: Most slices at once with one label, for every job of this type that is enqueued without one of its
            own; such as ``ConcurrencyLimit("rechunk:{account}", capacity=1)``. None for no such bound.
    """

    job_type = ""
    concurrency: ConcurrencyLimit | None = None

    def operation(self, request: JobRequest, provider: Provider) -> Operation:
        """Look *request*'s operation up at the provider; see `find_operation`."""
        return find_operation(request, provider)

    def read_item(
        self, request: JobRequest, operation: Operation, row: Mapping[str, str]
    ) -> tuple[str, dict[str, Any]]:
        """The first column is the key, the others are the payload."""
        first, *rest = operation.columns
        return row[first], {name: row[name] for name in rest if row.get(name)}

    def fits(self, operation: Operation, items: Sequence[Item]) -> int:
        """All of them."""
        return len(items)

    def observe_step(self, call: Call, carry: Mapping[str, Any]) -> Reading:
        """Nothing is known about any item."""
        return Reading(tuple({} for _ in call.items))

    def decide(self, call: Call, before: Sequence[State]) -> Sequence[Decision]:
        """Every item needs the effect."""
        return [Effect({}) for _ in before]

    def probe(self, call: Call) -> Sequence[ItemOutcome | None]:
        """Without a way to look, nothing can be known."""
        return [ItemOutcome.unconfirmed("sent, and no answer came; this operation offers no way to look")] * len(
            call.items
        )

    def plan_undo(
        self, operation: Operation, provider: Provider, entries: Iterable[JournalEntry]
    ) -> Iterable[UndoItem]:
        """One item to undo for each journal entry."""
        for entry in entries:
            yield UndoItem(entry.key, {"before": dict(entry.before), "after": dict(entry.after), "seq": entry.seq})


def find_operation(request: JobRequest, provider: Provider) -> Operation:
    """The provider's operation that *request* names, its options checked.

    Raises:
        InvalidInputError: The provider has no such operation, or a required option is missing.
    """
    operation = provider.operations.get(request.operation)
    if operation is None:
        known = ", ".join(sorted(provider.operations))
        raise InvalidInputError(
            f"operation {request.operation!r} is unknown at {provider.name}.",
            remedy=f"It offers: {known}.",
            field="operation",
        )
    for name in operation.required_options:
        if not request.options.get(name):
            raise InvalidInputError(
                f"operation {operation.name} needs the option {name!r}.",
                remedy=f"Add --option {name}=VALUE.",
                field=name,
            )
    return operation


def header_format(provider: Provider) -> HeaderFormat:
    """How *provider* writes its rate-limit headers: its ``quota_headers``, else told by the values.

    Raises:
        ConfigurationError: ``quota_headers`` is something else.
    """
    form = getattr(provider, "quota_headers", None) or HeaderFormat()
    if not isinstance(form, HeaderFormat):
        raise ConfigurationError(
            f"provider {provider.name}: quota_headers {form!r} is no HeaderFormat.",
            remedy="Give a jobqueue.model.quota.HeaderFormat, or leave it out.",
        )
    return form
