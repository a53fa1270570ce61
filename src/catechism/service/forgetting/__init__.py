"""Forgetting as a service: planned before it acts, kept as an edit, audited, certified."""
