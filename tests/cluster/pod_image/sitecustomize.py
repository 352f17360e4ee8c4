"""What a pod of KFP has and this machine lacks: the toy stages, and `/minio` as a volume.

`POD_ROOT` is where the pod's volumes are. Only that prefix differs from a pod; the path rules are
kfp's own.
"""

import importlib.abc
import importlib.util
import os
import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).parents[2] / "ops" / "toys" / "sitecustomize.py"))
MODULE = "kfp.dsl.types.artifact_types"


class Volumes(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            module._MINIO_LOCAL_MOUNT_PREFIX = f"{os.environ['POD_ROOT']}/minio/"

        spec.loader.exec_module = exec_module
        return spec


if "POD_ROOT" in os.environ:
    sys.meta_path.insert(0, Volumes())
