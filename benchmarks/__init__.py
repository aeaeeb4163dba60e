"""Benchmarks: what a step, a search and their parts cost. They use the product; it never uses them."""
