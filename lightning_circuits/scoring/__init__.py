"""Numbers for edges, without a Trainer: from gradients, from cutting, from one forward."""
