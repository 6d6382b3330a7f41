"""What is put right behind dead processes and late jobs, what a job shows of itself, and the plan of a rollback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest
from engine_world import Scripted, World
from store_world import (
    PROVIDER,
    checkpoint,
    claim_all,
    finish_part,
    new_job,
    opened_row,
    part_row,
    scratch_database,
    sql,
    write,
)

from jobqueue.engine import control
from jobqueue.engine.history import PostgresHistory
from jobqueue.engine.limits import change_limits, view_limits
from jobqueue.engine.process import is_alive, this_holder, this_host
from jobqueue.engine.sweep import sweep
from jobqueue.errors import InvalidInputError, ServerUnavailableError
from jobqueue.local import LocalStack
from jobqueue.model.job import JobStatus
from jobqueue.model.limit import Scope, ScopeKind
from jobqueue.model.limit_change import LimitsChange
from jobqueue.ratelimit.limiter import Limiter
from jobqueue.settings import process_start_id
from jobqueue.store import checkpoints, due, jobs, limits
from jobqueue.store.checkpoints import Record
from jobqueue.store.database import Database


@pytest.fixture(scope="module")
def url(stack: LocalStack, _template_database: str) -> Iterator[str]:
    with scratch_database(stack.database_url, _template_database, "engine_sweep") as found:
        yield found


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database(url) as opened:
        yield opened


def test_the_sweep_ends_jobs_whose_last_slice_died_before_it_could(database: Database) -> None:
    """All parts have ended and nobody said so."""
    job_id = new_job(database, 2)
    finish_part(database, job_id, claim_all(database, job_id)[0])
    assert jobs.get(database, job_id).finished_at is None
    sweep(database)
    assert jobs.get(database, job_id).status is JobStatus.SUCCEEDED


def test_leases_of_dead_processes_of_this_host_end_at_once(database: Database) -> None:
    """A live process keeps its lease; a dead one, a reused pid and one that is told dead lose theirs."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as gone:
        gone.wait()
    me = this_holder("alive")
    assert is_alive(me.pid, me.pid_started)
    holders = {
        "alive": me,
        "dead": replace(me, name="dead", pid=gone.pid),
        "reused": replace(me, name="reused", pid_started=me.pid_started - 100),
        "elsewhere": replace(me, name="elsewhere", host="another", pid=gone.pid),
        "told": replace(me, name="told", host="another"),
    }
    job_ids = {name: new_job(database) for name in holders}
    for name, holder in holders.items():
        assert checkpoints.claim(database, job_ids[name], holder, count=1, lease_s=60)
    sweep(database, dead_holders=lambda: ["told"])
    ended = {name for name, job_id in job_ids.items() if due.live_leases(database, job_id)[0] == 0}
    assert ended == {"dead", "reused", "told"}
    assert me.host == this_host()


def test_a_zombie_is_not_alive() -> None:
    """It was killed and its parent has not looked yet."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = psutil.Process(child.pid)
        started = float(process_start_id(child.pid) or "nan")
        assert is_alive(child.pid, started)
        process.kill()
        while process.status() != psutil.STATUS_ZOMBIE:
            pass
        assert not is_alive(child.pid, started)


def test_what_was_sent_before_redis_was_lost_is_read_back_with_its_cost(database: Database) -> None:
    """One entry for the effect with the whole cost, one for the looks without; pauses and breakers too."""
    job_id = new_job(database, 4, provider="tidal")
    claim = claim_all(database, job_id)[0]
    row = part_row(0, claim.fence, has_intents=True, cursor=2)
    opened = [opened_row(0, 1, 0, 0, requests=2, cost_units=51), opened_row(0, 2, 1, 1, cost_units=50)]
    history = PostgresHistory(database)
    epoch = history.begin_epoch("tidal", "run")
    checkpoints.record(
        database, job_id, Record([row], opened=opened), commit=1, scope="tidal", provider="tidal", epoch=epoch
    )
    sent = [(entry.cost_units, entry.count) for entry in history.sent_since("tidal", 60.0)]
    assert sorted(sent) == [(0, 1), (50, 1), (51, 1)]
    assert not list(history.cooldowns("tidal"))
    assert not list(history.breakers("tidal"))


def test_limits_are_changed_value_by_value_and_shown(redis_url: str, database: Database) -> None:
    """What is not given stays; nothing to change is refused; the view says what is used up."""
    first = change_limits(
        database, "apple_music", LimitsChange(windows="7/minute", max_concurrency=3), batch=("add", 1, 2, 3)
    )
    before, after = first.before, first.after
    assert (before["windows"], before["max_concurrency"], before["batch"]["optimal"]) == ("1000 per 1 hour", None, 15)
    assert (after["windows"], after["max_concurrency"]) == ("7/minute", 3)
    assert after["batch"] == {"min": 1, "optimal": 2, "max": 3}
    again = change_limits(database, "apple_music", LimitsChange(windows="9/minute")).after
    assert (again["windows"], again["max_concurrency"]) == ("9/minute", 3)
    with pytest.raises(InvalidInputError, match="nothing is to be changed"):
        change_limits(database, "apple_music", LimitsChange(kind=ScopeKind.ACCOUNT))
    limiter = Limiter(
        redis_url, {"apple_music": limits.provider_limits(database, "apple_music")}, PostgresHistory(database)
    )
    shown = view_limits(database, limiter, Scope("apple_music")).as_dict()
    limiter.close()
    assert "9/minute" in str(shown["configured"])
    assert [(w["limit"], w["remaining"]) for w in shown["windows"]] == [(9, 9)]
    away = Limiter(
        "redis://127.0.0.1:1/0",
        {"apple_music": limits.provider_limits(database, "apple_music")},
        PostgresHistory(database),
    )
    with pytest.raises(ServerUnavailableError):
        view_limits(database, away, Scope("apple_music"))
    away.close()


def test_a_rollback_waits_until_its_source_has_let_go(url: str, redis_url: str, database: Database) -> None:
    """First for the lease, then for the deadline of what may still be on the wire; then it plans, from nothing, nothing."""
    source = new_job(database, 2)
    claim = claim_all(database, source)[0]
    control.cancel(database, source)
    handler = Scripted()
    handler.job_type = "rollback"
    world = World(url, redis_url, database, handler)
    world.job_id = new_job(database, 0, type="rollback", rollback_of=source, digest="undo")

    def wait_s() -> float:
        world.wake()
        world.run()
        return float(jobs.progress_row(database, world.job_id)["next_due_in_s"])

    assert 0.5 < wait_s() <= 1.0
    assert f"job {source} to let go" in checkpoint(database, world.job_id)["wait_reason"]
    epoch = sql(database, "SELECT epoch FROM limiter_epochs WHERE provider = %(p)s", {"p": PROVIDER})[0]["epoch"]
    row = part_row(0, claim.fence, has_intents=True, cursor=1)
    write(database, source, Record([row], opened=[opened_row(0, 1, 0, 0, deadline_s=11.0)]), epoch=epoch)
    sql(database, "UPDATE batch_checkpoints SET due_at = NULL, holder = NULL WHERE job_id = %(j)s", {"j": source})
    assert 9 < wait_s() <= 11
    sql(database, "UPDATE batches SET deadline_at = now() WHERE job_id = %(j)s", {"j": source})
    world.wake()
    world.run()
    job = jobs.get(database, world.job_id)
    assert (job.status, job.is_planned, job.item_count) == (JobStatus.SUCCEEDED, True, 0)
    assert dict(job.summary)["undoes"] == 0


def test_a_plan_whose_lease_was_lost_is_undone(url: str, redis_url: str, database: Database) -> None:
    """No item and no part of it stays; whoever holds the plan now makes it."""
    source = new_job(database, 3)
    claim = claim_all(database, source)[0]
    journal = [{"part": 0, "seq": n, "batch_no": 1, "before": {"n": n}, "after": {}} for n in range(3)]
    write(database, source, Record([part_row(0, claim.fence)], journal=journal))
    finish_part(database, source, claim)
    jobs.finish(database, source)
    world = World(url, redis_url, database, Scripted())
    world.job_id = new_job(database, 0, type="rollback", rollback_of=source, digest="undo-2")
    sql(
        database,
        "CREATE FUNCTION steal() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " UPDATE batch_checkpoints SET fence = fence + 1 WHERE job_id = NEW.job_id AND part = 0; RETURN NULL; END $$",
    )
    sql(database, "CREATE TRIGGER steal AFTER INSERT ON batch_checkpoints FOR EACH ROW EXECUTE FUNCTION steal()")
    try:
        with pytest.raises(Exception, match=r"lease on the plan .* was lost"):
            world.run()
    finally:
        sql(database, "DROP FUNCTION steal CASCADE")
    assert jobs.items_page(database, world.job_id) == []
    assert not jobs.get(database, world.job_id).is_planned
    sql(database, "UPDATE batch_checkpoints SET due_at = now() WHERE job_id = %(j)s", {"j": world.job_id})
    world.run()
    assert [item["payload"]["seq"] for item in jobs.items_page(database, world.job_id)] == [2, 1, 0]
