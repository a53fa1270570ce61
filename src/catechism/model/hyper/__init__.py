"""Hypernetwork editing: a network that turns fine-tuning gradients into edits, its training edits and its training."""
