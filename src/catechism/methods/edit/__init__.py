"""Editors: methods that write a fact."""
