"""Providers as a local HTTP server: exact limits, injected faults, and a ledger of all it saw.

It is the judge of the rest of the project, so it shares no code with ``jobqueue``'s own limiter. The core (`clock`,
`limiter`, `headers`, `faults`, `ledger`, `ledger_file`, `state`, `pipeline`, `server`, `control`) knows no provider; a
provider is one route table, such as `spotify`. Start it with ``python -m handlers.sandbox`` or, from Python, with
`launch.start_sandbox`.
"""
