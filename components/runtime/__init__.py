"""What lives inside a step beside the stage: record, log, heartbeat, cache, sinks."""

from components.runtime.cache import CacheEntry, TaskKey, look_up, task_key
from components.runtime.context import Context
from components.runtime.failure import TaskFailed
from components.runtime.services import StageServices
from components.runtime.stage import answer_from_cache, run_stage, stage_module

__all__ = [
    "CacheEntry",
    "Context",
    "StageServices",
    "TaskFailed",
    "TaskKey",
    "answer_from_cache",
    "look_up",
    "run_stage",
    "stage_module",
    "task_key",
]
