"""Evaluation that cannot flatter: who is judged, on which patches, marks and pixels."""
