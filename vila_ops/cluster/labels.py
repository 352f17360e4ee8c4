"""By which labels everything of a run is found on a cluster."""

from __future__ import annotations

RUN = "vila.dev/run"
"""The run id, on what tasks make themselves: TrainJobs and their pods."""
TASK = "vila.dev/task"
"""The task's name, on every pod of a run."""
KFP_RUN = "pipeline/runid"
"""KFP's own id of the run, which it puts on every pod that it starts."""
QUEUE = "kueue.x-k8s.io/queue-name"
PRIORITY = "kueue.x-k8s.io/priority-class"
MOST = 63
"""Characters that a label's value may have."""
