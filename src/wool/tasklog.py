"""Which task a log line belongs to: a filter for `logging` that says so on each record.

It reads the task of the context in which the line is logged, and must never change whether a line is logged.
"""

from __future__ import annotations

import logging

from wool.task import current_task

OUTSIDE = "-"
"""Stands for an id where there is none."""


class TaskLogFilter(logging.Filter):
    """Gives each record ``task``, ``caller`` and ``worker``: the ids of the routine's task in which it was logged.

    ``task`` is the task's id in hex, as in the log of ``wool worker``; ``caller`` and ``worker`` are uids. Each is
    ``"-"`` outside a routine's body. Add it to a handler, so that it sees the records of all loggers:

    >>> handler = logging.StreamHandler()
    >>> handler.addFilter(TaskLogFilter())
    >>> handler.setFormatter(logging.Formatter("%(task)s %(levelname)s %(message)s"))

    It is on in ``wool worker``. What a thread logs belongs to the task in whose context it runs, as `asyncio.to_thread`
    has it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Give ``record`` its ids. Always true."""
        task = current_task()
        if task is None:
            record.task = record.caller = record.worker = OUTSIDE
        else:
            record.task, record.caller, record.worker = task.key.hex(), task.caller, task.worker or OUTSIDE
        return True
