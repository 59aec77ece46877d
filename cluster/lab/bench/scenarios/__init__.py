"""What is measured: a file a scenario."""
