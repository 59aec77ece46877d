"""Tests of node/: the agents' socket and what is fed by it."""
