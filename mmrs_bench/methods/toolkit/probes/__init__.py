"""Classifiers of features of frozen networks."""
