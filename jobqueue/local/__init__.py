"""Embedded Valkey and Postgres for a machine that has neither, and a supervisor for the processes that use them."""

from jobqueue.local.stack import LocalStack, ephemeral_stack
from jobqueue.local.supervisor import ProcessSpec, Supervisor, line_writer, parse_procfile

__all__ = ["LocalStack", "ProcessSpec", "Supervisor", "ephemeral_stack", "line_writer", "parse_procfile"]
