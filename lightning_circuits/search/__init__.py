"""Ways of finding circuits, each a LightningModule in a file of its own."""
