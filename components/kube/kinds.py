"""What must be installed on a cluster for the kinds that are not Kubernetes' own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Provider:
    """A product that brings kinds to a cluster: its name, and the command that installs it."""

    name: str
    install: str


KFP_VERSION = "2.17.0"
TRAINER_VERSION = "v2.3.0"
_PIPELINES = "github.com/kubeflow/pipelines/manifests/kustomize"

PIPELINES = Provider(
    f"Kubeflow Pipelines {KFP_VERSION}",
    f'kubectl apply -k "{_PIPELINES}/cluster-scoped-resources?ref={KFP_VERSION}" && '
    f'kubectl apply -k "{_PIPELINES}/env/platform-agnostic?ref={KFP_VERSION}"',
)
PROVIDERS = {
    "trainer.kubeflow.org": Provider(
        f"Kubeflow Trainer {TRAINER_VERSION.removeprefix('v')}",
        "kubectl apply --server-side -k "
        '"https://github.com/kubeflow/trainer.git/manifests/overlays/manager'
        f'?ref={TRAINER_VERSION}"',
    ),
    "kueue.x-k8s.io": Provider(
        "Kueue",
        "kubectl apply --server-side -f "
        "https://github.com/kubernetes-sigs/kueue/releases/latest/download/manifests.yaml",
    ),
    "argoproj.io": PIPELINES,
    "pipelines.kubeflow.org": PIPELINES,
    "monitoring.coreos.com": Provider(
        "the Prometheus operator",
        "kubectl create -f https://github.com/prometheus-operator/prometheus-operator/releases/"
        "latest/download/bundle.yaml",
    ),
    "external-secrets.io": Provider(
        "External Secrets",
        "helm install external-secrets external-secrets --repo https://charts.external-secrets.io "
        "-n external-secrets --create-namespace",
    ),
}
"""By API group."""
