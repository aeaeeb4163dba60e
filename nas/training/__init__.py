"""Training a derived network from scratch, and the network as a timm model."""
