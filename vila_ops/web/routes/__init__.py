"""The pages and machine-readable answers, a module each."""
