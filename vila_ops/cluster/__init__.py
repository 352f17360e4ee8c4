"""Kubernetes: what a cluster's config says, runs on it, and the cluster itself."""
