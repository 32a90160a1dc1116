"""Labelled texts: from files to what a trainer takes, and what its predictions are measured by."""
