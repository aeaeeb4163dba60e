"""The search: a supernet, its architecture parameters, and the two steps over them."""
