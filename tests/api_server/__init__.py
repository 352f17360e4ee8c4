"""A local HTTP server for tests that speaks the used parts of two APIs over one port.

    with running() as server:
        server.kubeconfig(path)             # a kubeconfig whose current context reaches it
        server.kube.add({...})              # an object as a controller or kubelet would put it
        server.kube.set_status("v1", "Pod", "vila", "step", {"phase": "Failed"})
        server.kube.write_log("vila", "step", "line")
        server.fail("POST", r"/runs$", status=429, headers={"Retry-After": "1"}, times=2)
        server.deny("create", "trainjobs")  # 403, and what SelfSubjectAccessReview says
        server.kfp.set_state(run_id, "SUCCEEDED")
        server.requests                     # (method, path) of all that was asked

Kubernetes (`kube`): any resource of the registry in `kinds.py` (`install` adds CRDs): get, list
with label and field selectors and pages, watch with resourceVersion and 410, create (generateName,
dryRun), replace and merge-patch with 409, server-side apply with field conflicts, delete with
owner references and finalizers, status subresources, pod logs (follow, tail, previous),
SelfSubjectAccessReview, /version, discovery. Built-in kinds are checked strictly against the
published schemas of Kubernetes, as a real server would.

Kubeflow Pipelines (`kfp`), v2beta1, both at the root and through the service proxy
`/api/v1/namespaces/NS/services/NAME:PORT/proxy/`: healthz, pipelines, versions, uploads,
experiments, runs, recurring runs. Bodies are checked against the models of kfp_server_api.
"""

from __future__ import annotations

from tests.api_server.server import ApiServer, running

__all__ = ["ApiServer", "running"]
