"""A model behind an OpenAI-compatible chat endpoint: `vila serve`."""
