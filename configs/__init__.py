"""Packaged YAML configs: `lightning-circuits fit --config NAME.yaml` finds them by name."""
