"""Optuna storages: which URL is meant, whole trials in one transaction, locks between processes."""
