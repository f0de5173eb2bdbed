"""What a circuit is worth: exact ablation over a data set, and everything that the number is compared with."""
