"""What a person may change of where limits stand: pauses, what was learned, breakers."""

from __future__ import annotations

import click

from jobqueue.cli.command import examples, json_option, open_queue
from jobqueue.cli.failure import DONE
from jobqueue.cli.limit_values import level_options
from jobqueue.cli.output import clean, emit, say
from jobqueue.model.limit import Adjustment

_BREAKER = {
    "open": (Adjustment.FORCE_OPEN, "nothing is sent until it is set to auto"),
    "disable": (Adjustment.DISABLE_BREAKER, "it never opens until it is set to auto"),
    "auto": (Adjustment.CLOSE_BREAKER, "it is closed and opens by itself"),
}
_RESETS = {
    Adjustment.FORGET_LEARNED: "what was learned is forgotten",
    Adjustment.LIFT_COOLDOWN: "the pause is lifted",
    Adjustment.CLOSE_BREAKER: "the breaker is closed",
}


@click.command(
    "reset",
    epilog=examples(
        "jobqueue limits reset spotify --cooldown",
        "jobqueue limits reset spotify --account team-7 --learned --breaker",
    ),
)
@click.argument("provider")
@level_options("Reset the state of")
@click.option("--learned", is_flag=True, help="Forget what throttles taught: the configured limits hold in full.")
@click.option("--cooldown", is_flag=True, help="Lift the pause the provider asked for.")
@click.option("--breaker", is_flag=True, help="Close the breaker.")
@json_option
def reset_limits(
    provider: str, account: str, operation: str, learned: bool, cooldown: bool, breaker: bool, is_json: bool
) -> int:
    """Reset where a provider's limits stand, or those that an account or an operation has of its own."""
    given = dict(zip(_RESETS, (learned, cooldown, breaker), strict=True))
    wanted = [adjustment for adjustment, is_given in given.items() if is_given]
    if not wanted:
        words = "Nothing is to be reset: give --learned, --cooldown or --breaker."
        raise click.UsageError(words, click.get_current_context())
    with open_queue() as queue:
        view = queue.adjust_limits(provider, wanted, account=account, operation=operation)
    if is_json:
        emit(view.as_dict())
        return DONE
    for adjustment in wanted:
        say(f"{clean(view.state.scope.name)}: {_RESETS[adjustment]}")
    return DONE


@click.command(
    "breaker",
    epilog=examples(
        "jobqueue limits breaker spotify open",
        "jobqueue limits breaker youtube_music disable --operation add_to_playlist",
        "jobqueue limits breaker spotify auto",
    ),
)
@click.argument("provider")
@click.argument("state", type=click.Choice(list(_BREAKER)))
@level_options("Hold the breaker of")
@json_option
def hold_breaker(provider: str, state: str, account: str, operation: str, is_json: bool) -> int:
    """Hold a circuit breaker open, or out of the way, until it is set to auto again."""
    adjustment, words = _BREAKER[state]
    with open_queue() as queue:
        view = queue.adjust_limits(provider, [adjustment], account=account, operation=operation)
    if is_json:
        emit(view.as_dict())
    else:
        say(f"breaker of {clean(view.state.scope.name)}: {words}")
    return DONE
