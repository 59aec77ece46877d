"""The wire, message by message: one body against fakeredis and real Redis."""
