"""Several modules with a real Redis of their own."""
