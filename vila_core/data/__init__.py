"""From corpora as they are published to training batches.

readers -> samples with a key for life -> shards with an index -> mixture -> packs -> batches.
"""
