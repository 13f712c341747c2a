"""Segmentation networks, pain classifiers and Grad-CAM on torch and MONAI.

Knows imaging's arrays; nothing of Dagster or of the lake.
"""
