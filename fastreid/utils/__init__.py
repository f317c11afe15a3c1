"""Helpers that know nothing of re-identification: registry, files, logs, processes, checkpoints."""
