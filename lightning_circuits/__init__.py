"""Circuits in frozen language models, found by a PyTorch Lightning run and checked by exact ablation."""
