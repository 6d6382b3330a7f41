"""One exception tree.

    JobQueueError
    ├── UsageError                      exit 2: the caller must change the call
    │   ├── ConfigurationError          a setting, a DSN, a provider's configuration
    │   ├── InvalidInputError           an item, a file, an option
    │   ├── NotFoundError               no such job, dead letter, provider
    │   ├── ConflictError               refused because of what exists already
    │   │   ├── IdempotencyConflictError
    │   │   └── DuplicateJobError
    │   └── InvalidTransitionError      the job's state does not allow it
    ├── CannotMeetDeadlineError         exit 4: the job would be done too late; nothing was stored
    ├── ConcurrencyLimitExceededError   a job waited for a permit as long as it may
    ├── ServerUnavailableError          exit 3: Redis or Postgres cannot be reached
    ├── MigrationError                  exit 2: the schema and the code do not fit
    │   ├── DatabaseNotMigratedError
    │   └── DatabaseTooNewError
    └── HandlerError                    what a handler may raise; each has its own budget
        ├── RateLimited                 throttle: cool-down, no attempt used
        ├── ProviderUnavailable         outage: breaker failure, retried with jitter
        ├── OutcomeUnknown              sent, and no answer came
        ├── AuthorizationExpired        refresh once, else the job pauses
        ├── BatchRejected               something in the batch is refused: bisect
        └── ItemRejected                permanent for this item

Every message says what was wrong (field and value) and what to do next. No message holds a secret.
"""

from __future__ import annotations


class JobQueueError(Exception):
    """Base of everything this project raises on purpose.

    Args:
        message: What was wrong, with the field and its value.
        remedy: What to do next, as a sentence; empty when the message says it.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()


class UsageError(JobQueueError):
    """The call as given cannot be carried out."""

    exit_code = 2


class ConfigurationError(UsageError):
    """A setting, a DSN or a provider's configuration is wrong."""


class InvalidInputError(UsageError):
    """An item, a file or an option is wrong.

    Args:
        message: What was wrong.
        remedy: What to do next.
        field: The name of the field or column.
        line: The line of the input file, counted from 1.
    """

    def __init__(self, message: str, *, remedy: str = "", field: str = "", line: int | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.field = field
        self.line = line


class NotFoundError(UsageError):
    """There is no such job, dead letter or provider."""


class ConflictError(UsageError):
    """What exists already forbids it."""


class IdempotencyConflictError(ConflictError):
    """The idempotency key was used before with another payload."""


class DuplicateJobError(ConflictError):
    """An equal job is still active.

    Args:
        message: What was wrong.
        remedy: What to do next.
        job_id: The active job.
    """

    def __init__(self, message: str, *, remedy: str = "", job_id: int) -> None:
        super().__init__(message, remedy=remedy)
        self.job_id = job_id


class InvalidTransitionError(UsageError):
    """The job's state does not allow what was asked."""


class CannotMeetDeadlineError(JobQueueError):
    """The job as asked for would not be done by its deadline."""

    exit_code = 4


class ConcurrencyLimitExceededError(JobQueueError):
    """A job waited for a permit of its concurrency label as long as it may, and never got one.

    Args:
        message: What was waited for, how long, and who held it.
        remedy: What to do next.
        label: The label.
    """

    def __init__(self, message: str, *, remedy: str = "", label: str) -> None:
        super().__init__(message, remedy=remedy)
        self.label = label


class ServerUnavailableError(JobQueueError):
    """Redis or Postgres cannot be reached."""

    exit_code = 3


class MigrationError(JobQueueError):
    """The schema in the database and the migrations of this code do not fit."""

    exit_code = 2


class DatabaseNotMigratedError(MigrationError):
    """The database lacks migrations this code needs."""


class DatabaseTooNewError(MigrationError):
    """The database has migrations this code does not know."""


class HandlerError(JobQueueError):
    """What a handler raises for a whole request; see the subclasses for what the engine does."""


class RateLimited(HandlerError):
    """The provider throttled the request: a cool-down, no attempt used, never a breaker failure.

    Args:
        message: The provider's own words.
        retry_after_s: Seconds until it may be asked again, rounded up; None when the provider did not say.
        is_of_account: True when only this account, or site, is throttled and the provider's others are not. Where no
            limits are kept per account all of the provider pauses.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, is_of_account: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.is_of_account = is_of_account


class ProviderUnavailable(HandlerError):
    """The provider answered 5xx, or could not be reached before anything was sent.

    Args:
        message: What happened.
        was_sent: True when the request may have had its effect (an answer of 5xx).
        is_size_caused: True when a smaller batch may pass (413, a timeout of a large batch).
    """

    def __init__(self, message: str, *, was_sent: bool = False, is_size_caused: bool = False) -> None:
        super().__init__(message)
        self.was_sent = was_sent
        self.is_size_caused = is_size_caused


class OutcomeUnknown(HandlerError):
    """The request was sent and no answer came: it may have had its effect."""


class AuthorizationExpired(HandlerError):
    """The provider refused the credentials."""


class BatchRejected(HandlerError):
    """The provider refused the whole batch because of something in it."""


class ItemRejected(HandlerError):
    """The provider refuses this item for good.

    Args:
        message: The provider's own words.
        code: A short, stable code, such as ``invalid_id``.
    """

    def __init__(self, message: str, *, code: str = "rejected") -> None:
        super().__init__(message)
        self.code = code
