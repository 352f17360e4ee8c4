"""The Kubernetes API as objects in JSON: retried where that is safe, its refusals explained."""
