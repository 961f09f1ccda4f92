"""Patch-based one-class screening of mammograms and chest X-rays. Research use only."""

__version__ = "0.1.0"
