"""The one place where KFP components are declared: image, no installs, nothing else."""

from collections.abc import Callable
from typing import Any, Literal

from kfp import dsl

Role = Literal["data", "train", "eval", "ops"]


def component(role: Role) -> Callable[[Callable[..., Any]], Any]:
    """Declare a lightweight component that runs in the image of `role` (see `images/`).

    Lightweight, because it is the only kind that runs in process, as a subprocess, in a container
    and on a cluster. Nothing is installed at run time: the image holds kfp and the package.
    Resources, queues and secrets belong to the cluster's config, never here.
    """
    return dsl.component(base_image=f"vila-platform/{role}:latest", install_kfp_package=False)
