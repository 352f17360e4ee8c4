"""The model library of the VILA platform: model, data, training, evaluation, and their stages.

It knows no pipeline engine, no cluster and no tracking service; `components` and `vila_ops` are
built on it.
"""

__version__ = "0.1.0"
