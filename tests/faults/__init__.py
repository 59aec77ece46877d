"""Kills, pauses and cuts, with the history checker: the short form in CI, the long one on request."""
