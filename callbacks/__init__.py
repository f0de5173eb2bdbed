"""Trainer callbacks, imported as `lightning_circuits.callbacks`."""
