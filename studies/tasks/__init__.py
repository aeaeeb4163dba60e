"""Estimators on the tasks of the ReinMax paper."""
