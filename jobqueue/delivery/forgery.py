"""An RQ job class that runs our functions and nothing else.

Redis is shared ground: whoever may write to it could ask a worker to unpickle anything and to call any importable
function. With ``RQ_JOB_CLASS=jobqueue.delivery.forgery.SliceJob`` (``jobqueue up`` and `JobQueue.start_worker` set
it) a worker reads plain values only, calls what is on the list below, and ignores callbacks.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

from rq.exceptions import DeserializationError
from rq.job import Job

ALLOWED = frozenset({"jobqueue.delivery.entry.run_slice", "jobqueue.delivery.entry.run_cleanup"})


class ForgedJobError(DeserializationError):  # type: ignore[misc]
    """The job in Redis asks for something this project never enqueues."""


class _PlainUnpickler(pickle.Unpickler):
    """Reads tuples, texts and numbers; any class or function it meets is a forgery."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise ForgedJobError(f"the job names {module_name}.{global_name}")


class PlainSerializer:
    """Pickle without globals: RQ's default format, so that a worker without our job class reads it too."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        """*value*, made of tuples, lists, dicts, texts and numbers."""
        return pickle.dumps(value)

    @staticmethod
    def loads(data: bytes) -> Any:
        """The value.

        Raises:
            ForgedJobError: It holds anything but plain values.
        """
        return _PlainUnpickler(io.BytesIO(data)).load()


class SliceJob(Job):  # type: ignore[misc]
    """An RQ job that can only be one of ours."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.serializer = PlainSerializer

    def _deserialize_data(self) -> None:
        super()._deserialize_data()
        if self._func_name not in ALLOWED or self._instance is not None:
            raise ForgedJobError(f"job {self.id} asks for {self._func_name!r}, which is none of this project's")

    @property
    def func(self) -> Callable[..., Any]:
        """The function, after the check above."""
        found: Callable[..., Any] = Job.func.fget(self)
        return found

    # A forged hash may name any importable function as a callback.
    success_callback = failure_callback = stopped_callback = None
