"""Evaluation: items, prompts, greedy answers, metrics, and one record per sample."""
