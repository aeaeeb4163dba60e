"""Studies beside the product: the tasks of the ReinMax paper, and the builder of the shipped tables."""
