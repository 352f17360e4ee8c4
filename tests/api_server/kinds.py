"""Which resources there are: (group, version) -> plural -> (kind, namespaced)."""

from __future__ import annotations

Kinds = dict[tuple[str, str], dict[str, tuple[str, bool]]]

BUILT_IN: Kinds = {
    ("", "v1"): {
        "pods": ("Pod", True),
        "services": ("Service", True),
        "secrets": ("Secret", True),
        "configmaps": ("ConfigMap", True),
        "events": ("Event", True),
        "serviceaccounts": ("ServiceAccount", True),
        "persistentvolumeclaims": ("PersistentVolumeClaim", True),
        "resourcequotas": ("ResourceQuota", True),
        "limitranges": ("LimitRange", True),
        "namespaces": ("Namespace", False),
        "nodes": ("Node", False),
        "persistentvolumes": ("PersistentVolume", False),
    },
    ("apps", "v1"): {
        "deployments": ("Deployment", True),
        "statefulsets": ("StatefulSet", True),
        "daemonsets": ("DaemonSet", True),
        "replicasets": ("ReplicaSet", True),
    },
    ("batch", "v1"): {"jobs": ("Job", True), "cronjobs": ("CronJob", True)},
    ("rbac.authorization.k8s.io", "v1"): {
        "roles": ("Role", True),
        "rolebindings": ("RoleBinding", True),
        "clusterroles": ("ClusterRole", False),
        "clusterrolebindings": ("ClusterRoleBinding", False),
    },
    ("networking.k8s.io", "v1"): {
        "networkpolicies": ("NetworkPolicy", True),
        "ingresses": ("Ingress", True),
    },
    ("policy", "v1"): {"poddisruptionbudgets": ("PodDisruptionBudget", True)},
    ("scheduling.k8s.io", "v1"): {"priorityclasses": ("PriorityClass", False)},
    ("storage.k8s.io", "v1"): {"storageclasses": ("StorageClass", False)},
    ("apiextensions.k8s.io", "v1"): {
        "customresourcedefinitions": ("CustomResourceDefinition", False)
    },
    ("coordination.k8s.io", "v1"): {"leases": ("Lease", True)},
}

CUSTOM: Kinds = {
    ("trainer.kubeflow.org", "v1alpha1"): {
        "trainjobs": ("TrainJob", True),
        "clustertrainingruntimes": ("ClusterTrainingRuntime", False),
        "trainingruntimes": ("TrainingRuntime", True),
    },
    ("kueue.x-k8s.io", "v1beta2"): {
        "localqueues": ("LocalQueue", True),
        "workloads": ("Workload", True),
        "clusterqueues": ("ClusterQueue", False),
        "resourceflavors": ("ResourceFlavor", False),
        "workloadpriorityclasses": ("WorkloadPriorityClass", False),
    },
    ("argoproj.io", "v1alpha1"): {"workflows": ("Workflow", True)},
    ("jobset.x-k8s.io", "v1alpha2"): {"jobsets": ("JobSet", True)},
    ("monitoring.coreos.com", "v1"): {"servicemonitors": ("ServiceMonitor", True)},
    ("external-secrets.io", "v1"): {
        "externalsecrets": ("ExternalSecret", True),
        "secretstores": ("SecretStore", True),
    },
}
"""What the operators of the target platform bring; `Kube.install()` puts all of it there."""


def definition(group: str, version: str, plural: str, kind: str, namespaced: bool) -> dict:
    """Return a CustomResourceDefinition as an installed operator has it."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "names": {"plural": plural, "kind": kind},
            "scope": "Namespaced" if namespaced else "Cluster",
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "x-kubernetes-preserve-unknown-fields": True,
                        }
                    },
                }
            ],
        },
        "status": {
            "acceptedNames": {"plural": plural, "kind": kind},
            "storedVersions": [version],
            "conditions": [
                {
                    "type": "Established",
                    "status": "True",
                    "reason": "InitialNamesAccepted",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ],
        },
    }
