"""What tests stand on, against a real Redis."""
