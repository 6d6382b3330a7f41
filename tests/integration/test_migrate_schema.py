"""The schema says no to what the model says no to, and has all that the code's queries need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

import psycopg
import pytest
from store_world import claim_all, new_job, one, scratch_database, sql

from jobqueue.local import LocalStack
from jobqueue.model.breaker import BreakerStatus
from jobqueue.model.item import ItemStatus
from jobqueue.model.job import ACTIVE, TERMINAL, JobStatus
from jobqueue.model.window import WindowMode
from jobqueue.store.database import Database, query

QUERIES = sorted(
    file.name.removesuffix(".sql") for file in resources.files("jobqueue.store").joinpath("queries").iterdir()
)


@pytest.fixture(scope="module")
def database(stack: LocalStack, _template_database: str) -> Iterator[Database]:
    with scratch_database(stack.database_url, _template_database, "schema_tests") as url, Database(url) as opened:
        yield opened


def test_every_query_file_fits_the_migrated_schema(database: Database) -> None:
    """Each statement is planned against the real tables with NULL for every parameter; none names what is not there."""
    for name in QUERIES:
        text = query(name)
        params = dict.fromkeys(re.findall(r"%\((\w+)\)s", text))
        with database.connection.transaction(force_rollback=True):
            database.connection.execute(f"EXPLAIN {text}", params)


def _listed(database: Database, constraint: str) -> set[str]:
    definition = one(
        database, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %(n)s", {"n": constraint}
    )
    return set(re.findall(r"'([a-z_]+)'::text", definition))


def test_the_states_of_the_schema_are_those_of_the_model(database: Database) -> None:
    """Stored job states, item outcomes, breaker states and window modes agree; parked and retrying are never stored."""
    assert _listed(database, "jobs_state_known") == {str(s) for s in set(JobStatus) - {JobStatus.PARKED}}
    assert _listed(database, "jobs_finished_when_terminal") == {str(s) for s in TERMINAL}
    assert _listed(database, "item_outcomes_status_is_terminal") == {
        str(s) for s in set(ItemStatus) - {ItemStatus.RETRYING}
    }
    assert _listed(database, "circuit_breaker_state_known") == {str(s) for s in BreakerStatus}
    assert _listed(database, "rate_limit_configs_mode_known") == {str(m) for m in WindowMode}


def test_the_partial_indexes_cover_exactly_the_active_states(database: Database) -> None:
    """A unique job blocks its equal while it is active, and no longer."""
    rows = sql(
        database, "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'jobs' AND indexdef LIKE '%%state%%'"
    )
    assert {row["indexname"] for row in rows} == {
        "jobs_payload_digest_unique_idx", "jobs_payload_digest_active_idx", "jobs_active_idx",
    }  # fmt: skip
    for row in rows:
        assert set(re.findall(r"'([a-z_]+)'::text", row["indexdef"])) == {str(s) for s in ACTIVE - {JobStatus.PARKED}}


@pytest.mark.parametrize("state", sorted(set(JobStatus) - {JobStatus.PARKED}))
def test_a_terminal_state_and_an_end_time_go_together(database: Database, state: JobStatus) -> None:
    """A terminal job without an end and an active one with an end are both refused."""
    job_id = new_job(database)
    wrong = "NULL" if state.is_terminal else "now()"
    right = "now()" if state.is_terminal else "NULL"
    with pytest.raises(psycopg.errors.CheckViolation, match="jobs_finished_when_terminal"):
        sql(
            database,
            f"UPDATE jobs SET state = %(s)s, finished_at = {wrong} WHERE id = %(j)s",
            {"s": state, "j": job_id},
        )
    sql(database, f"UPDATE jobs SET state = %(s)s, finished_at = {right} WHERE id = %(j)s", {"s": state, "j": job_id})


BATCH = (
    "INSERT INTO batches (job_id, part, no, first_seq, last_seq, item_count, status, idempotency_key, scope, cost_units,"
    " requests, deadline_at, attempt, due_at, closed_at) VALUES (%(j)s, 0, 1, 0, 0, {n}, '{status}', 'k', 's', {cost},"
    " {requests}, now(), {attempt}, {due}, {closed})"
)


def batch(**changes: Any) -> str:
    values = {"n": 1, "status": "sent", "cost": 1, "requests": 1, "attempt": 1, "due": "NULL", "closed": "NULL"}
    return BATCH.format(**(values | changes))


LETTER = (
    "INSERT INTO dead_letters (job_id, part, seq, job_type, provider, account, operation, fingerprint, reason, state,"
    " decided_at) VALUES (%(j)s, {part}, {seq}, 't', 'p', 'a', 'o', 'f', 'r', '{state}', {decided})"
)


def letter(part: str = "0", seq: str = "0", state: str = "waiting", decided: str = "NULL") -> str:
    return LETTER.format(part=part, seq=seq, state=state, decided=decided)


def limits(columns: str, values: str) -> str:
    return f"INSERT INTO rate_limit_configs (provider, {columns}) VALUES ('new', {values})"


HOLDER = (
    "INSERT INTO concurrency_holders (label, holder, holder_host, holder_pid, holder_started, job_id, capacity, until)"
    " VALUES ('l', 'h', 'host', 1, 1, {}, {}, now())"
)
WAITER = "INSERT INTO concurrency_waiters (label, job_id, capacity) VALUES ('l', {}, {})"

CHECKPOINT = "UPDATE batch_checkpoints SET {} WHERE job_id = %(j)s"

# constraint, and a statement that breaks it; %(j)s is a job of ten items in one part.
VIOLATIONS = {
    "jobs_state_known": "UPDATE jobs SET state = 'parked' WHERE id = %(j)s",
    "jobs_priority_known": "UPDATE jobs SET priority = 3 WHERE id = %(j)s",
    "jobs_item_count_not_negative": "UPDATE jobs SET item_count = -1 WHERE id = %(j)s",
    "jobs_finished_when_terminal": "UPDATE jobs SET state = 'failed' WHERE id = %(j)s",
    "jobs_expiring_when_finished": "UPDATE jobs SET expiring_at = now() WHERE id = %(j)s",
    "jobs_owner_idempotency_key": "INSERT INTO jobs (type, provider, payload_digest, idempotency_key) VALUES"
    " ('t', 'p', 'd', 'k'), ('t', 'p', 'd', 'k')",
    "jobs_payload_digest_unique_idx": "INSERT INTO jobs (type, provider, payload_digest, is_unique) VALUES"
    " ('t', 'p', 'd', true), ('t', 'p', 'd', true)",
    "jobs_rollback_of_fkey": "UPDATE jobs SET rollback_of = 987654 WHERE id = %(j)s",
    "job_items_pkey": "INSERT INTO job_items VALUES (%(j)s, 0, 0, 'again', NULL)",
    "batch_checkpoints_job_id_fkey": "UPDATE batch_checkpoints SET job_id = 987654 WHERE job_id = %(j)s",
    "batch_checkpoints_pkey": "INSERT INTO batch_checkpoints SELECT * FROM batch_checkpoints WHERE job_id = %(j)s",
    "batch_checkpoints_kind_known": CHECKPOINT.format("kind = 'other'"),
    "batch_checkpoints_cursor_in_range": CHECKPOINT.format("cursor = last_seq + 2"),
    "batch_checkpoints_outcomes_within_items": CHECKPOINT.format("succeeded = 6, failed = 5"),
    "batch_checkpoints_finished_is_whole": CHECKPOINT.format("succeeded = 9, finished_at = now(), due_at = NULL"),
    "batch_checkpoints_finished_is_never_due": CHECKPOINT.format("succeeded = 10, finished_at = now()"),
    "batch_checkpoints_held_has_a_lease": CHECKPOINT.format("holder = 'me', due_at = NULL"),
    "batches_status_known": batch(status="lost", closed="now()"),
    "batches_counts_positive": batch(n=0),
    "batches_open_has_no_end": batch(closed="now()"),
    "batches_waiting_has_a_time": batch(status="waiting", closed="now()"),
    "batches_pkey": f"{batch()}, (%(j)s, 0, 1, 0, 0, 1, 'sent', 'k', 's', 1, 1, now(), 1, NULL, NULL)",
    "batches_job_id_part_fkey": batch().replace("(%(j)s, 0, 1,", "(%(j)s, 5, 1,"),
    "item_outcomes_pkey": "INSERT INTO item_outcomes (job_id, part, seq, status) VALUES (%(j)s, 0, 0, 'failed'),"
    " (%(j)s, 0, 0, 'succeeded')",
    "item_outcomes_status_is_terminal": "INSERT INTO item_outcomes (job_id, part, seq, status) VALUES (%(j)s, 0, 0, 'retrying')",
    "item_retries_pkey": "INSERT INTO item_retries (job_id, part, seq, attempts, due_at) VALUES (%(j)s, 0, 0, 1, now()),"
    " (%(j)s, 0, 0, 2, now())",
    "item_retries_job_id_part_fkey": "INSERT INTO item_retries (job_id, part, seq, attempts, due_at) VALUES (%(j)s, 5, 0, 1, now())",
    "item_journal_pkey": "INSERT INTO item_journal (job_id, part, seq, batch_no, before, after) VALUES"
    " (%(j)s, 0, 0, 1, '{}', '{}'), (%(j)s, 0, 0, 2, '{}', '{}')",
    "dead_letters_state_known": letter(state="lost", decided="now()"),
    "dead_letters_decided_has_a_time": letter(state="retried"),
    "dead_letters_item_is_whole": letter(seq="NULL"),
    "dead_letters_one_waiting_per_item_idx": f"{letter()}, (%(j)s, 0, 0, 't', 'p', 'a', 'o', 'f', 'r', 'waiting', NULL)",
    "concurrency_holders_job_id_fkey": HOLDER.format("987654", "1"),
    "concurrency_holders_pkey": f"{HOLDER.format('%(j)s', '1')}, ('l', 'h', 'host', 1, 1, %(j)s, 1, now())",
    "concurrency_holders_capacity_positive": HOLDER.format("%(j)s", "0"),
    "concurrency_waiters_job_id_fkey": WAITER.format("987654", "1"),
    "concurrency_waiters_pkey": f"{WAITER.format('%(j)s', '1')}, ('l', %(j)s, 1)",
    "concurrency_waiters_capacity_positive": WAITER.format("%(j)s", "0"),
    "leader_leases_pkey": "INSERT INTO leader_leases VALUES ('sweep', 'a', now()), ('sweep', 'b', now())",
    "providers_pkey": "INSERT INTO providers (name, base_url) VALUES ('spotify', 'http://other')",
    "providers_name_is_plain": "INSERT INTO providers (name, base_url) VALUES ('Spot/ify', 'http://x')",
    "rate_limit_configs_provider_fkey": limits("windows", "''").replace("'new'", "'unknown'"),
    "rate_limit_configs_pkey": "INSERT INTO rate_limit_configs (provider) VALUES ('spotify')",
    "rate_limit_configs_scope_kind_known": limits("scope_kind", "'site'"),
    "rate_limit_configs_name_fits_kind": limits("scope_kind, scope_name", "'operation', 'a:b'"),
    "rate_limit_configs_floor_positive": limits("learned_floor", "0"),
    "rate_limit_configs_backoff_is_the_providers": limits("scope_kind, backoff", "'account', '{\"bug\": {}}'"),
    "rate_limit_configs_mode_known": limits("mode", "'loose'"),
    "rate_limit_configs_concurrency_positive": limits("max_concurrency", "0"),
    "rate_limit_configs_cooldown_positive": limits("cooldown_default_s", "0"),
    "batch_configs_provider_fkey": "INSERT INTO batch_configs VALUES ('unknown', '*', 1, 1, 1)",
    "batch_configs_pkey": "INSERT INTO batch_configs VALUES ('spotify', '*', 1, 1, 1)",
    "batch_configs_sizes_ordered": "INSERT INTO batch_configs VALUES ('new', '*', 1, 3, 2)",
    "limiter_epochs_provider_fkey": "INSERT INTO limiter_epochs VALUES ('unknown', 1, '')",
    "limiter_epochs_pkey": "INSERT INTO limiter_epochs VALUES ('spotify', 1, '')",
    "provider_rate_state_provider_fkey": "INSERT INTO provider_rate_state VALUES ('s', 'unknown', now())",
    "provider_rate_state_pkey": "INSERT INTO provider_rate_state VALUES ('s', 'new', now()), ('s', 'new', now())",
    "circuit_breaker_state_provider_fkey": "INSERT INTO circuit_breaker_state VALUES ('s', 'unknown', 'open')",
    "circuit_breaker_state_pkey": "INSERT INTO circuit_breaker_state VALUES ('s', 'new', 'open'), ('s', 'new', 'open')",
    "circuit_breaker_state_known": "INSERT INTO circuit_breaker_state VALUES ('s', 'new', 'ajar')",
}  # fmt: skip


@pytest.fixture(scope="module")
def job_of_ten(database: Database) -> int:
    sql(database, "INSERT INTO providers (name, base_url) VALUES ('new', 'http://x')")
    return new_job(database, 10)


def test_every_constraint_refuses_what_it_is_for(database: Database, job_of_ten: int) -> None:
    """Each constraint and unique index is broken once by itself, and named in the refusal."""
    for name, statement in VIOLATIONS.items():
        with database.connection.transaction(force_rollback=True), pytest.raises(psycopg.IntegrityError) as caught:
            sql(database, statement, {"j": job_of_ten})
        assert caught.value.diag.constraint_name == name, statement


def test_no_constraint_is_left_out_of_the_test_above(database: Database) -> None:
    """A new constraint needs a statement that breaks it; primary keys made of an identity cannot be broken."""
    rows = sql(
        database,
        "SELECT conname AS name FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'"
        " AND conrelid <> 'schema_migrations'::regclass"
        " UNION SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indrelid"
        " WHERE indisunique AND relnamespace = 'public'::regnamespace AND indrelid <> 'schema_migrations'::regclass",
    )
    assert {row["name"] for row in rows} == set(VIOLATIONS) | {"jobs_pkey", "dead_letters_pkey"}


def test_the_due_index_serves_dispatch_and_ended_parts_are_not_in_it(database: Database) -> None:
    """Finding what is due stays cheap however many parts have ended."""
    job_id = new_job(database)
    claim_all(database, job_id)
    definition = one(
        database, "SELECT indexdef FROM pg_indexes WHERE indexname = 'batch_checkpoints_priority_due_at_idx'"
    )
    assert definition.endswith("(priority, due_at) WHERE (due_at IS NOT NULL)")


def test_every_shipped_provider_has_limits_sizes_and_an_epoch(database: Database) -> None:
    """The defaults are whole: nothing that ships starts without a limit."""
    lacking = sql(
        database,
        "SELECT name FROM providers WHERE name <> 'new' AND (NOT EXISTS (SELECT FROM rate_limit_configs AS r WHERE r.provider = name)"
        " OR NOT EXISTS (SELECT FROM batch_configs AS b WHERE b.provider = name AND b.operation = '*')"
        " OR NOT EXISTS (SELECT FROM limiter_epochs AS e WHERE e.provider = name))",
    )
    assert lacking == []
