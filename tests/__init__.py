"""The claims this project makes, each with a test that tries to break it."""
