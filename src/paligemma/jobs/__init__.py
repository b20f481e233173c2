"""Many inputs -> a folder of results that survives anything: on this machine, or on a cluster with the same bytes.

`run_job` runs a job, `Settings` says which, `Here` or `cluster.Cluster` say where. Nothing heavy is imported until
a model is loaded.
"""

from paligemma.jobs.folder import Folder
from paligemma.jobs.requests import WORDS, Defaults, Item
from paligemma.jobs.run import Here, Plan, Progress, Summary, Worker, run_job
from paligemma.jobs.settings import Settings

__all__ = [
    "WORDS",
    "Defaults",
    "Folder",
    "Here",
    "Item",
    "Plan",
    "Progress",
    "Settings",
    "Summary",
    "Worker",
    "run_job",
]
