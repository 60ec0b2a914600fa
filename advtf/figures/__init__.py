"""Figures of the studies, one module per study, drawn from result files only. Imports no TensorFlow."""
