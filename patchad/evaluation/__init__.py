"""Unbiased evaluation: which patients, patches, marks and pixels are judged, and how."""
