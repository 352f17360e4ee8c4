"""What rendered objects refer to, and whether it is there: names, keys, labels, ports, queues.

A schema does not tell that a volume, a key of a Secret or a selector leads nowhere: the API server
accepts it, and a pod hangs. `dangling` says so before anything is applied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vila_ops.cluster.generate import keys_of
from vila_ops.cluster.patch import Manifest
from vila_ops.cluster.render import containers_of

KFP_PODS = ({"app": "ml-pipeline"}, {"component": "metadata-grpc-server"}, {"app": "seaweedfs"})
"""Labels of KFP's own pods, which policies may name."""

RUN_PODS = ({"vila.dev/task": "any"}, {"vila.dev/task": "any", "vila.dev/node": "true"})
"""Labels of pods that runs make: a task's, and a node's of a training."""

_MADE_ELSEWHERE = frozenset({"kubeflow", "kube-system", "monitoring", "ingress-nginx"})


@dataclass(frozen=True)
class Pod:
    """A pod template: the object that holds it, the namespace its pods are in, labels, spec."""

    owner: str
    namespace: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    claims: frozenset[str] = frozenset()


def dangling(manifests: list[Manifest]) -> list[str]:
    """Return a line for each reference that leads to no object; empty: all lead somewhere.

    Secrets that no object provides are not told here: `secrets_by_hand` returns them.
    """
    there = _There(manifests)
    found: list[str] = []
    for pod in there.pods:
        found += _of_pod(pod, there)
    for manifest in manifests:
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        namespace = manifest["metadata"].get("namespace")
        if namespace and namespace not in _MADE_ELSEWHERE | there.names("Namespace"):
            found.append(f"{name}: namespace {namespace}: no such Namespace")
        check = _CHECKS.get(manifest["kind"])
        if check:
            found += [f"{name}: {line}" for line in check(manifest, there)]
    return found


def secrets_by_hand(manifests: list[Manifest]) -> dict[tuple[str, str], frozenset[str]]:
    """Return the Secrets that are needed and no object provides: (namespace, name) to its keys."""
    there = _There(manifests)
    needed: dict[tuple[str, str], frozenset[str]] = {}
    for pod in there.pods:
        for kind, name, keys in _config_of(pod):
            place = (pod.namespace, name)
            if kind == "Secret" and place not in there.keys["Secret"]:
                needed[place] = needed.get(place, frozenset()) | keys
    for manifest in manifests:
        for secret in manifest.get("imagePullSecrets", []):
            needed.setdefault((_namespace(manifest), secret["name"]), frozenset())
        for place, key in _scraped_with(manifest):
            if place not in there.keys["Secret"]:
                needed[place] = needed.get(place, frozenset()) | {key}
    return needed


class _There:
    """The objects, by what they are looked up by."""

    def __init__(self, manifests: list[Manifest]) -> None:
        self.manifests = manifests
        self.pods = list(_pods(manifests))
        self.keys: dict[str, dict[tuple[str, str], frozenset[str]]] = {
            "Secret": {},
            "ConfigMap": {},
        }
        for manifest in manifests:
            place = (_namespace(manifest), manifest["metadata"]["name"])
            if manifest["kind"] == "ConfigMap":
                self.keys["ConfigMap"][place] = frozenset(manifest.get("data", {}))
            elif manifest["kind"] == "Secret":
                named = keys_of(manifest)
                keys = {*manifest.get("stringData", {}), *manifest.get("data", {}), *named}
                self.keys["Secret"][place] = frozenset(keys)
            elif manifest["kind"] == "ExternalSecret":
                target = (place[0], manifest["spec"]["target"]["name"])
                keys = {entry["secretKey"] for entry in manifest["spec"]["data"]}
                self.keys["Secret"][target] = frozenset(keys)

    def names(self, kind: str, namespace: str | None = None) -> set[str]:
        """Return the names of a kind, in one namespace if given."""
        return {
            item["metadata"]["name"]
            for item in self.manifests
            if item["kind"] == kind and namespace in (None, _namespace(item))
        }

    def one(self, kind: str, name: str) -> Manifest | None:
        """Return the object of that kind and name."""
        for item in self.manifests:
            if item["kind"] == kind and item["metadata"]["name"] == name:
                return item
        return None


def _namespace(manifest: Manifest) -> str:
    return manifest["metadata"].get("namespace", "")


def _pods(manifests: list[Manifest]) -> Iterator[Pod]:
    steps = {_namespace(item) for item in manifests if item["kind"] == "Role"}
    for manifest in manifests:
        kind, spec = manifest["kind"], manifest.get("spec", {})
        owner = f"{kind} {manifest['metadata']['name']}"
        if kind in ("Deployment", "StatefulSet", "Job"):
            template = spec["template"]
            claims = {item["metadata"]["name"] for item in spec.get("volumeClaimTemplates", [])}
            labels = template["metadata"]["labels"]
            yield Pod(owner, _namespace(manifest), labels, template["spec"], frozenset(claims))
        elif kind == "ClusterTrainingRuntime":  # its pods are where TrainJobs are: with the runs
            for job in spec["template"]["spec"]["replicatedJobs"]:
                template = job["template"]["spec"]["template"]
                for namespace in sorted(steps):
                    yield Pod(owner, namespace, template["metadata"]["labels"], template["spec"])


def _of_pod(pod: Pod, there: _There) -> Iterator[str]:
    spec = pod.spec
    account = spec.get("serviceAccountName")
    if account not in there.names("ServiceAccount", pod.namespace):
        yield f"{pod.owner}: serviceAccountName {account}: no such account in {pod.namespace}"
    priority = spec.get("priorityClassName")
    if priority not in there.names("PriorityClass"):
        yield f"{pod.owner}: priorityClassName {priority}: no such class"
    for spread in spec.get("topologySpreadConstraints", []):
        if not selects(spread["labelSelector"], pod.labels):
            yield f"{pod.owner}: topologySpreadConstraints: does not select its own pods"
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    mounted: set[str] = set()
    for container in containers_of(dict(spec)):
        ports = {port["name"] for port in container.get("ports", []) if "name" in port}
        mounted |= {mount["name"] for mount in container.get("volumeMounts", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            port = container.get(probe, {}).get("httpGet", {}).get("port")
            if isinstance(port, str) and port not in ports:
                yield f"{pod.owner}: {probe}: port {port}: the container has no such port"
    for name in sorted(mounted - volumes.keys() - pod.claims):
        yield f"{pod.owner}: volumeMounts: {name}: no such volume"
    for name in sorted((volumes.keys() | pod.claims) - mounted):
        yield f"{pod.owner}: volumes: {name}: mounted by no container"
    for volume in volumes.values():
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim and claim not in there.names("PersistentVolumeClaim", pod.namespace):
            yield f"{pod.owner}: volumes: {volume['name']}: no PersistentVolumeClaim {claim}"
    for kind, name, keys in _config_of(pod):
        has = there.keys[kind].get((pod.namespace, name))
        if has is None and kind == "ConfigMap":
            yield f"{pod.owner}: {kind} {name}: not in namespace {pod.namespace}"
        for key in sorted(keys - has) if has is not None else ():
            yield f"{pod.owner}: {kind} {name}: has no key {key}"


def _config_of(pod: Pod) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Yield (kind, name, keys) of each ConfigMap and Secret that a pod reads."""
    for container in containers_of(dict(pod.spec)):
        for source in container.get("envFrom", []):
            for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if field in source:
                    yield kind, source[field]["name"], frozenset()
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                if field in source:
                    yield kind, source[field]["name"], frozenset({source[field]["key"]})
    for volume in pod.spec.get("volumes", []):
        for field, kind, named in (
            ("configMap", "ConfigMap", "name"),
            ("secret", "Secret", "secretName"),
        ):
            if field in volume:
                items = volume[field].get("items", [])
                yield kind, volume[field][named], frozenset(item["key"] for item in items)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether a LabelSelector selects what has these labels."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        has, values = rule["key"] in labels, rule.get("values", [])
        truth = {
            "Exists": has,
            "DoesNotExist": not has,
            "In": labels.get(rule["key"]) in values,
            "NotIn": labels.get(rule["key"]) not in values,
        }
        if not truth[rule["operator"]]:
            return False
    return True


def _role_binding(manifest: Manifest, there: _There) -> Iterator[str]:
    role = manifest["roleRef"]
    scope = _namespace(manifest) if role["kind"] == "Role" else None
    if role["name"] not in there.names(role["kind"], scope):
        yield f"roleRef: no {role['kind']} {role['name']}"
    for subject in manifest["subjects"]:
        if subject["name"] not in there.names("ServiceAccount", subject.get("namespace", "?")):
            yield f"subjects: no ServiceAccount {subject['name']} in {subject.get('namespace')}"


def _service(manifest: Manifest, there: _There) -> Iterator[str]:
    pods = _chosen(there, _namespace(manifest), {"matchLabels": manifest["spec"]["selector"]})
    if not pods:
        yield "selector: selects no pod"
    for port in manifest["spec"]["ports"]:
        if pods and not any(port["targetPort"] in _ports(pod) for pod in pods):
            yield f"targetPort {port['targetPort']}: no container has such a port"


def _chosen(there: _There, namespace: str, selector: Mapping[str, Any]) -> list[Pod]:
    return [
        pod for pod in there.pods if pod.namespace == namespace and selects(selector, pod.labels)
    ]


def _ports(pod: Pod) -> set[str | int]:
    ports = [port for item in containers_of(dict(pod.spec)) for port in item.get("ports", [])]
    return {port["containerPort"] for port in ports} | {port.get("name", 0) for port in ports}


def _budget(manifest: Manifest, there: _There) -> Iterator[str]:
    if not _chosen(there, _namespace(manifest), manifest["spec"]["selector"]):
        yield "selector: selects no pod"


def _policy(manifest: Manifest, there: _There) -> Iterator[str]:
    spec = manifest["spec"]
    pods = _chosen(there, _namespace(manifest), spec["podSelector"])
    of_runs = any(selects(spec["podSelector"], labels) for labels in RUN_PODS)
    if not pods and not of_runs:
        yield "podSelector: selects no pod"
    for rule in spec.get("ingress", []):
        for port in rule.get("ports", []):
            if not any(port["port"] in _ports(pod) for pod in pods):
                yield f"ingress: port {port['port']}: no selected pod has such a port"
    for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
        for peer in [*rule.get("from", []), *rule.get("to", [])]:
            yield from _peer(peer, there)


def _peer(peer: Mapping[str, Any], there: _There) -> Iterator[str]:
    named = (
        peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
    )
    if named and named not in _MADE_ELSEWHERE | there.names("Namespace") | {
        pod.namespace for pod in there.pods
    }:
        yield f"namespaceSelector: {named}: no such Namespace"
    if "podSelector" not in peer or named == "kube-system":
        return
    known = [pod.labels for pod in there.pods] + [*RUN_PODS, *KFP_PODS]
    if not any(selects(peer["podSelector"], labels) for labels in known):
        yield f"podSelector: {peer['podSelector']}: no pod is like that"


def _stateful_set(manifest: Manifest, there: _There) -> Iterator[str]:
    yield from _own_selector(manifest, there)
    name = manifest["spec"]["serviceName"]
    if name not in there.names("Service", _namespace(manifest)):
        yield f"serviceName: no Service {name}"


def _own_selector(manifest: Manifest, there: _There) -> Iterator[str]:
    spec = manifest["spec"]
    if not selects(spec["selector"], spec["template"]["metadata"]["labels"]):
        yield "selector: does not select its own pods"


def _ingress(manifest: Manifest, there: _There) -> Iterator[str]:
    for rule in manifest["spec"]["rules"]:
        for path in rule["http"]["paths"]:
            wanted = path["backend"]["service"]
            service = there.one("Service", wanted["name"])
            ports = [port["name"] for port in service["spec"]["ports"]] if service else []
            if wanted["port"]["name"] not in ports:
                yield f"backend: no Service {wanted['name']} with a port {wanted['port']['name']}"


def _service_monitor(manifest: Manifest, there: _There) -> Iterator[str]:
    services = [
        item
        for item in there.manifests
        if item["kind"] == "Service"
        and _namespace(item) == _namespace(manifest)
        and selects(manifest["spec"]["selector"], item["metadata"].get("labels", {}))
    ]
    ports = {port["name"] for service in services for port in service["spec"]["ports"]}
    for endpoint in manifest["spec"]["endpoints"]:
        if endpoint["port"] not in ports:
            yield f"endpoints: port {endpoint['port']}: no selected Service has it"
    for place, key in _scraped_with(manifest):
        if key not in there.keys["Secret"].get(place, {key}):
            yield f"endpoints: Secret {place[1]}: has no key {key}"


def _scraped_with(manifest: Manifest) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield place and key of each Secret that a ServiceMonitor sends."""
    if manifest["kind"] == "ServiceMonitor":
        for endpoint in manifest["spec"]["endpoints"]:
            source = endpoint.get("authorization", {}).get("credentials")
            if source:
                yield (_namespace(manifest), source["name"]), source["key"]


def _local_queue(manifest: Manifest, there: _There) -> Iterator[str]:
    name = manifest["spec"]["clusterQueue"]
    queue = there.one("ClusterQueue", name)
    if queue is None:
        yield f"clusterQueue: no ClusterQueue {name}"
        return
    labels = {"kubernetes.io/metadata.name": _namespace(manifest)}
    if not selects(queue["spec"]["namespaceSelector"], labels):
        yield f"clusterQueue: {name} takes nothing from namespace {_namespace(manifest)}"


def _cluster_queue(manifest: Manifest, there: _There) -> Iterator[str]:
    for group in manifest["spec"]["resourceGroups"]:
        for flavor in group["flavors"]:
            if flavor["name"] not in there.names("ResourceFlavor"):
                yield f"flavors: no ResourceFlavor {flavor['name']}"
            named = [resource["name"] for resource in flavor["resources"]]
            if named != group["coveredResources"]:
                yield f"flavors: {flavor['name']}: resources differ from coveredResources"


def _quota(manifest: Manifest, there: _There) -> Iterator[str]:
    for rule in manifest["spec"].get("scopeSelector", {}).get("matchExpressions", []):
        for name in set(rule.get("values", [])) - there.names("PriorityClass"):
            yield f"scopeSelector: no PriorityClass {name}"


_CHECKS = {
    "RoleBinding": _role_binding,
    "Service": _service,
    "PodDisruptionBudget": _budget,
    "NetworkPolicy": _policy,
    "Deployment": _own_selector,
    "StatefulSet": _stateful_set,
    "Ingress": _ingress,
    "ServiceMonitor": _service_monitor,
    "LocalQueue": _local_queue,
    "ClusterQueue": _cluster_queue,
    "ResourceQuota": _quota,
}
