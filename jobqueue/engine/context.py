"""Everything a slice needs to know about its job, looked up once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from jobqueue.engine import registry
from jobqueue.errors import ConfigurationError
from jobqueue.handler import Endpoint, JobHandler, Operation, Provider, header_format
from jobqueue.model.batching import BatchConfig
from jobqueue.model.job import Job, JobRequest
from jobqueue.model.limit import ProviderLimits, Scope
from jobqueue.model.quota import HeaderFormat
from jobqueue.model.worker import LONGEST_EFFECT_S
from jobqueue.notes import AnswerNotes
from jobqueue.settings import Settings
from jobqueue.store import limits
from jobqueue.store.database import Database


@dataclass(frozen=True, slots=True)
class JobContext:
    """A job with its handler, operation, endpoint, limits, batch sizes and the form of its provider's headers."""

    job: Job
    handler: JobHandler
    provider: Provider
    operation: Operation
    endpoint: Endpoint
    scope: Scope
    limits: ProviderLimits
    sizes: BatchConfig
    header_format: HeaderFormat = field(default_factory=HeaderFormat)

    def notes(self) -> AnswerNotes:
        """Where one request's answer leaves its headers."""
        return AnswerNotes(self.header_format)


def job_context(database: Database, settings: Settings, job: Job) -> JobContext:
    """Look up what *job* needs.

    Raises:
        InvalidInputError: No installed package brings its type, provider or operation any more.
        ConfigurationError: Its provider's configuration is wrong.
    """
    handler = registry.handler(job.type)
    provider = registry.provider(job.provider)
    operation = handler.operation(as_request(job), provider)
    if operation.deadline_s > LONGEST_EFFECT_S:
        raise ConfigurationError(
            f"operation {operation.name} of {job.provider} may take {operation.deadline_s:g} s; a lease allows"
            f" {LONGEST_EFFECT_S:g} s.",
            remedy="Lower its deadline_s.",
        )
    largest = operation.max_size
    sizes = limits.batch_config(database, job.provider, operation.name, largest=largest)
    chosen = job.options.get("batch_size")
    if isinstance(chosen, int):
        sizes = BatchConfig(1, chosen, chosen)
    return JobContext(
        job=job,
        handler=handler,
        provider=provider,
        operation=operation,
        endpoint=endpoint(database, settings, job.provider, job.account),
        scope=Scope(job.provider, job.account, operation.name),
        limits=limits.provider_limits(database, job.provider),
        sizes=sizes,
        header_format=header_format(provider),
    )


def endpoint(database: Database, settings: Settings, provider: str, account: str) -> Endpoint:
    """The provider's row, overridden by the environment; without a token unless there is one for *account*."""
    stored = limits.endpoint(database, provider)
    override = settings.provider_override(provider)
    return replace(
        stored,
        base_url=override.base_url or stored.base_url,
        token_url=override.token_url or stored.token_url,
        access_token=(override.access_token or "") if override.account in (None, account) else "",
    )


def as_request(job: Job) -> JobRequest:
    """The request *job* came from, as far as an operation needs it."""
    return JobRequest(
        type=job.type,
        provider=job.provider,
        account=job.account,
        operation=job.operation,
        priority=job.priority,
        options=job.options,
        owner=job.owner,
    )
