"""Serving: fixed shapes, kept programs, folded networks, prediction on files."""
