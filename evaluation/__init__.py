"""Metrics, the report labeler and result pages."""
