"""Gates: what a model must show before an alias moves to it, and the judge who looks."""
